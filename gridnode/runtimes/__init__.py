"""What runs inside a sandbox: one program per runtime, its language's standard library only, speaking gridnode.wire."""
