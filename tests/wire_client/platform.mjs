// Stands in for the platform that the published client is made for: a container whose control
// port is our server. Loaded with --import before the tests.
import { register } from "node:module";

const sources = {
  "cloudflare:workers": `
    export class DurableObject { constructor(ctx, env) { this.ctx = ctx; this.env = env; } }
    export class WorkerEntrypoint extends DurableObject {}
    export class RpcTarget {}
    export const env = {};
    export const tracing = { enterSpan: (name, run) => run({ setAttribute() {} }) };
  `,
  "@cloudflare/containers": `
    export class Container {
      constructor(ctx, env) { this.ctx = ctx; this.env = env; this.envVars = {}; }
      // The control port is the server; any other port is reached as the platform would, from
      // outside of the sandbox.
      async containerFetch(target, init, port) {
        if (target instanceof Request) port ??= init;
        const url = new URL(target instanceof Request ? target.url : target);
        const prefix = Number(port) === 3000 ? "" : "/proxy/" + port;
        const ours = process.env.SANDBOX_URL + prefix + url.pathname + url.search;
        return fetch(target instanceof Request ? new Request(ours, target) : ours, target instanceof Request ? undefined : init);
      }
    }
    export class ContainerProxy {}
    export const getContainer = (namespace, id) => namespace.get(id);
    export const switchPort = (request) => request;
  `,
};

const hooks = `
  const sources = ${JSON.stringify(sources)};
  export async function resolve(specifier, context, next) {
    return specifier in sources
      ? { url: "platform:" + specifier, shortCircuit: true }
      : next(specifier, context);
  }
  export async function load(url, context, next) {
    return url.startsWith("platform:")
      ? { format: "module", source: sources[url.slice(9)], shortCircuit: true }
      : next(url, context);
  }
`;
register("data:text/javascript," + encodeURIComponent(hooks));

// The client reports each request on the console, which here is the tests' own output.
for (const level of ["log", "info", "debug", "warn", "error"]) console[level] = () => {};
