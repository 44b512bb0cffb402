"""The smallest task: what you send is what you get back."""


def handler(event):
    return event
