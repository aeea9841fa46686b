// Every method of the 0.3.7 client, as its README uses it.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, describe, test } from "node:test";
import {
  Sandbox,
  collectFile,
  getSandbox,
  parseSSEStream,
  proxyToSandbox,
  streamFile,
} from "sandbox-0.3";

function open(name) {
  const stored = new Map([["sandboxName", name]]); // as after its first use: loading it is not awaited here
  const storage = { get: async (key) => stored.get(key), put: async (key, value) => stored.set(key, value) };
  const ctx = { storage, blockConcurrencyWhile: (run) => run() };
  const sandbox = new Sandbox(ctx, {});
  return getSandbox({ get: () => sandbox }, name);
}

const sandbox = open(`wire-${randomUUID().slice(0, 8)}`);
const dir = `/workspace/wire-${randomUUID().slice(0, 8)}`;
await sandbox.mkdir(dir, { recursive: true });

async function lines(stream) {
  const events = [];
  for await (const event of parseSSEStream(stream)) events.push(event);
  return events;
}

async function eventually(look) {
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

describe("commands", () => {
  test("exec gives both streams and the exit code", async () => {
    const result = await sandbox.exec("echo out; echo err >&2; exit_code() { return 3; }; exit_code");
    assert.equal(result.stdout, "out\n");
    assert.equal(result.stderr, "err\n");
    assert.equal(result.exitCode, 3);
    assert.equal(result.success, false);
  });

  test("state stays between commands", async () => {
    await sandbox.exec(`cd ${dir} && export WIRE=kept && alias hi='echo hello'`);
    const result = await sandbox.exec("pwd; echo $WIRE");
    assert.equal(result.stdout, `${dir}\nkept\n`);
    await sandbox.exec("cd /workspace");
  });

  test("execStream brings output while the command runs, and its end", async () => {
    const events = await lines(await sandbox.execStream("echo a; echo b >&2; false"));
    assert.deepEqual(events.map((event) => event.type).sort(), ["complete", "start", "stderr", "stdout"]);
    assert.equal(events[0].type, "start");
    assert.equal(events.at(-1).exitCode, 1);
    assert.equal(events.at(-1).result.stdout, "a\n");
  });

  test("a session that was told to exit heals", async () => {
    const session = await sandbox.createSession({ id: `exits-${randomUUID()}` });
    await session.exec("exit 0").catch(() => {});
    assert.equal((await session.exec("echo again")).stdout, "again\n");
  });

  test("a shell that reads standard input reads nothing", async () => {
    assert.equal((await sandbox.exec("cat; echo done")).stdout, "done\n");
  });
});

describe("sessions", () => {
  test("each has its own directory, environment and state", async () => {
    await sandbox.mkdir(`${dir}/one`);
    const one = await sandbox.createSession({ id: `one-${randomUUID()}`, cwd: `${dir}/one`, env: { KEY: "1" } });
    const two = await sandbox.createSession({ id: `two-${randomUUID()}`, env: { KEY: "2" } });
    assert.equal((await one.exec("pwd; echo $KEY")).stdout, `${dir}/one\n1\n`);
    assert.equal((await two.exec("pwd; echo $KEY")).stdout, "/workspace\n2\n");
    await one.exec("SECRET=1");
    assert.equal((await two.exec('echo "[$SECRET]"')).stdout, "[]\n");
  });

  test("a session without isolation runs in the sandbox as well", async () => {
    const session = await sandbox.createSession({ id: `open-${randomUUID()}`, isolation: false });
    assert.equal((await session.exec("id -u")).stdout, "1000\n");
  });

  test("a live session is reused", async () => {
    const id = `again-${randomUUID()}`;
    await (await sandbox.createSession({ id })).exec("MARK=1");
    assert.equal((await (await sandbox.createSession({ id })).exec("echo $MARK")).stdout, "1\n");
  });
});

describe("files", () => {
  const text = 'quotes "double" \'single\' $HOME `id`\nSANDBOX_EOF\ntouch /tmp/owned\nlast line without newline';

  test("what is written is what is read", async () => {
    assert.equal((await sandbox.writeFile(`${dir}/a.txt`, text)).success, true);
    const read = await sandbox.readFile(`${dir}/a.txt`);
    assert.equal(read.content, text);
    assert.equal(read.encoding, "utf-8");
    assert.equal((await sandbox.exec("ls /tmp/owned")).exitCode, 2);
  });

  test("a binary file comes as base64", async () => {
    await sandbox.exec(`printf '\\x89PNG\\r\\n\\x1a\\n\\x00' > ${dir}/b.png`);
    const read = await sandbox.readFile(`${dir}/b.png`);
    assert.equal(read.isBinary, true);
    assert.deepEqual([...Buffer.from(read.content, "base64")], [137, 80, 78, 71, 13, 10, 26, 10, 0]);
  });

  test("a file streams, with UTF-8 whole", async () => {
    await sandbox.exec(`python3 -c "print('é' * 80000, end='')" > ${dir}/c.txt`);
    const { content } = await collectFile(await sandbox.readFileStream(`${dir}/c.txt`));
    assert.equal(content, "é".repeat(80000));
    let size = 0;
    for await (const chunk of streamFile(await sandbox.readFileStream(`${dir}/c.txt`))) size += chunk.length;
    assert.equal(size, 80000);
  });

  test("rename, move, list and delete", async () => {
    await sandbox.mkdir(`${dir}/deep/er`, { recursive: true });
    await sandbox.writeFile(`${dir}/deep/x`, "1");
    assert.equal((await sandbox.renameFile(`${dir}/deep/x`, `${dir}/deep/y`)).success, true);
    assert.equal((await sandbox.moveFile(`${dir}/deep/y`, `${dir}/deep/er/z`)).success, true);
    const listed = await sandbox.listFiles(`${dir}/deep`, { recursive: true });
    assert.deepEqual(listed.files.map((file) => file.relativePath).sort(), ["er", "er/z"]);
    assert.equal((await sandbox.deleteFile(`${dir}/deep/er/z`)).success, true);
    assert.equal((await sandbox.deleteFile(`${dir}/deep/er/z`)).success, false);
  });

  test("3 MB go both ways", async () => {
    const big = "0123456789abcdef".repeat(196_608);
    await sandbox.writeFile(`${dir}/big`, big);
    assert.equal((await sandbox.readFile(`${dir}/big`)).content, big);
  });
});

describe("processes", () => {
  after(() => sandbox.killAllProcesses());

  test("one runs, is seen, logs and is killed", async () => {
    const process = await sandbox.startProcess("echo up; while :; do sleep 60; done");
    assert.equal(process.status, "running");
    const seen = await sandbox.getProcess(process.id);
    assert.equal(seen.id, process.id);
    assert.ok((await sandbox.listProcesses()).some(({ id }) => id === process.id));
    await eventually(async () => (await sandbox.getProcessLogs(process.id)).stdout === "up\n");
    await sandbox.killProcess(process.id);
    assert.equal((await sandbox.getProcess(process.id)).status, "killed");
  });

  test("shell text, cwd and environment are honoured", async () => {
    const process = await sandbox.startProcess("cd / && pwd; echo $MODE; (exit 7)", {
      cwd: dir,
      env: { MODE: "test" },
      processId: `named-${randomUUID()}`,
    });
    const events = await lines(await sandbox.streamProcessLogs(process.id));
    assert.equal(events.filter(({ type }) => type === "stdout").map(({ data }) => data).join(""), "/\ntest\n");
    const end = events.find(({ type }) => type === "complete");
    assert.equal(end.exitCode, 7);
    assert.equal(end.status, "failed");
  });

  test("an unknown process is an error that says so", async () => {
    await assert.rejects(sandbox.getProcess("nobody"), /Process not found/);
  });

  test("kill-all ends what lives", async () => {
    await Promise.all([1, 2, 3].map(() => sandbox.startProcess("sleep 300")));
    assert.ok((await sandbox.killAllProcesses()) >= 3);
  });
});

describe("git", () => {
  test("a repository is cloned", async () => {
    const made = await sandbox.exec(
      `mkdir -p ${dir}/served && cd ${dir}/served && git init -q -b main src && cd src` +
        " && git config user.email a@b.c && git config user.name n && echo hi > README && git add . && git commit -qm one" +
        " && cd .. && git clone -q --bare src repo.git && git -C repo.git update-server-info",
    );
    assert.equal(made.exitCode, 0, made.stderr);
    const server = await sandbox.startProcess("python3 -u -m http.server 8418 --bind 127.0.0.1", { cwd: `${dir}/served` });
    await eventually(async () => (await sandbox.getProcessLogs(server.id)).stdout.includes("Serving"));
    const result = await sandbox.gitCheckout("http://127.0.0.1:8418/repo.git", { branch: "main", targetDir: `${dir}/cloned` });
    assert.equal(result.success, true, result.stderr);
    assert.equal((await sandbox.readFile(`${dir}/cloned/README`)).content, "hi\n");
    await sandbox.killProcess(server.id);
  });
});

describe("ports", () => {
  test("a service is exposed, reached by its preview host name, and hidden again", async () => {
    await sandbox.writeFile(`${dir}/index.html`, "<h1>hello</h1>");
    const server = await sandbox.startProcess("python3 -u -m http.server 8419", { cwd: dir });
    await eventually(async () => (await sandbox.getProcessLogs(server.id)).stdout.includes("Serving"));
    const exposed = await sandbox.exposePort(8419, { name: "web", hostname: "localhost:8787" });
    assert.match(exposed.url, /^http:\/\/8419-wire-.*\.localhost:8787\/$/);
    const listed = await sandbox.getExposedPorts("localhost:8787");
    assert.deepEqual(listed.map(({ port, name }) => [port, name]), [[8419, "web"]]);

    const answer = await proxyToSandbox(new Request(`${exposed.url}index.html`), { Sandbox: { get: () => sandbox } });
    assert.equal(await answer.text(), "<h1>hello</h1>");

    await sandbox.unexposePort(8419);
    assert.deepEqual(await sandbox.getExposedPorts("localhost:8787"), []);
    await sandbox.killProcess(server.id);
  });
});

describe("the code interpreter", () => {
  test("runCode calls back as it goes, and keeps state", async () => {
    const context = await sandbox.createCodeContext({ language: "python" });
    assert.equal(context.language, "python");
    await sandbox.runCode("x = 41", { context });
    const seen = [];
    const execution = await sandbox.runCode("print('out')\nimport sys; print('err', file=sys.stderr)\nx + 1", {
      context,
      onStdout: ({ text }) => seen.push(["stdout", text]),
      onStderr: ({ text }) => seen.push(["stderr", text]),
      onResult: ({ text }) => seen.push(["result", text]),
    });
    assert.deepEqual(execution.logs.stdout.join(""), "out\n");
    assert.equal(execution.results[0].text, "42");
    assert.deepEqual(seen.map(([kind]) => kind).sort(), ["result", "stderr", "stdout"]);
    assert.ok((await sandbox.listCodeContexts()).some(({ id }) => id === context.id));
    await sandbox.deleteCodeContext(context.id);
    assert.ok(!(await sandbox.listCodeContexts()).some(({ id }) => id === context.id));
  });

  test("an error is data with its name, value and traceback", async () => {
    const execution = await sandbox.runCode("1 / 0", { language: "python" });
    assert.equal(execution.error.name, "ZeroDivisionError");
    assert.equal(execution.error.value, "division by zero");
    assert.ok(execution.error.traceback.length > 0);
    assert.equal((await sandbox.runCode("def f(:", { language: "python" })).error.name, "SyntaxError");
  });

  test("figures, tables and dictionaries are rich results", async () => {
    const code = [
      "import matplotlib.pyplot as plt, pandas as pd",
      "plt.plot([1, 2, 3]); plt.title('line'); plt.show()",
      "pd.DataFrame({'a': [1, 2]})",
    ].join("\n");
    const execution = await sandbox.runCode(code, { language: "python" });
    assert.equal(execution.error, undefined);
    const png = execution.results.find((result) => result.png);
    assert.deepEqual([...Buffer.from(png.png, "base64").subarray(1, 4)], [80, 78, 71]);
    assert.match(execution.results.find((result) => result.html).html, /<table/);
    const dictionary = await sandbox.runCode("{'a': [1, 2]}", { language: "python" });
    assert.deepEqual(dictionary.results[0].json, { a: [1, 2] });
  });

  test("runCodeStream is a stream of lines", async () => {
    const body = await sandbox.runCodeStream("print(6 * 7)", { language: "python" });
    const text = await new Response(body).text();
    const events = text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
    assert.equal(events[0].text, "42\n");
    assert.equal(events.at(-1).type, "execution_complete");
  });

  for (const [language, code] of [
    ["javascript", "const fs = require('fs'); const xs = [1, 2, 3]; console.log('js'); xs.map((x) => x * 2)"],
    ["typescript", "enum Color { Red = 1 }\nconst c: Color = Color.Red; console.log('js'); [c * 2, 4, 6]"],
  ]) {
    test(`${language} runs`, async () => {
      const execution = await sandbox.runCode(code, { language });
      assert.equal(execution.error, undefined, JSON.stringify(execution.error));
      assert.equal(execution.logs.stdout.join(""), "js\n");
      assert.deepEqual(execution.results[0].json, [2, 4, 6]);
    });
  }
});

test("ping answers", async () => {
  assert.ok(await sandbox.client.ping());
});
