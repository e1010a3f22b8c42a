"""Telling people and their tools of alerts. Each notifier turns transitions into the requests of one kind of receiver.

base.py          what every notifier can do, and who is told of what
endpoint.py      where a notifier sends to, from the environment; keeps secrets out of words
http.py          one POST, and what an answer means
words.py         an alert in words, the same for all
webhook.py       signed JSON
slack.py         Slack's incoming webhooks
alertmanager.py  Prometheus' Alertmanager, API v2
via_apprise.py   e-mail and the rest, through the apprise library
build.py         the notifier of a kind
bundles.py       which transitions go into one notification, and when
progress.py      how far each partition is told
errors.py        how telling can fail
"""
