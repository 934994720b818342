"""How well a flow fits data, and how unusual an event is. Nothing here trains or draws."""
