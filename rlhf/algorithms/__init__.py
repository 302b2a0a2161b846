"""The families of collecting preferences, each one coroutine per prompt."""
