"""The control server: HTTP, WebSocket, and the application that answers on them."""
