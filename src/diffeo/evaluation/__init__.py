"""How well a flow fits, and how unusual an event is; nothing here trains or draws."""
