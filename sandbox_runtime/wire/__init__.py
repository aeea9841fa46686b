"""The messages of the wire, one typed struct each: requests, replies and events of streams.

They are the contract with clients that exist: 0.3.x and 0.12.x of the npm package
`@cloudflare/sandbox` send and read them unchanged. Where the two differ only in names, a reply
carries both. Requests of the wire ignore fields that they do not know, because other versions
send them; requests of our own (`sandboxes`) refuse them.
"""
