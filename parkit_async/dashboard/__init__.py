"""The dashboard: a live page of the store. ``parkit dashboard`` runs it; it needs the extra ``parkit[dashboard]``.

::

    server      the process: socket, event loop, signals
    app         what is at which address                    actions     what the buttons do
    access      who may see and change what                 metrics     /metrics
    streams     server-sent events
    watch       knows when something has changed: bells, files, pidfd
    state       turns the store into documents              values      shows values without running anybody's code
    static/     the page: HTML, CSS and a few ES modules, served as they are

The page, its events and ``/metrics`` show the same documents. starlette and uvicorn are imported here and below, and by nothing else.
"""
