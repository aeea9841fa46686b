"""A kernel for notebooks: the cells of JupyterLab, nbclient or VS Code run in a sandbox's context.

A front end starts the kernel as a process and speaks Jupyter's messaging protocol with it over
ZeroMQ. The kernel holds one sandbox with one context, and both end with it. It needs the extra
`jupyter`: `pip install jupyter-client pyzmq`.
"""
