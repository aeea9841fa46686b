// What the newest published client reaches over HTTP, with its own semantics (prefix /v2).
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { describe, test } from "node:test";
import { SandboxClient } from "sandbox-0.12";

const client = new SandboxClient({ baseUrl: `${process.env.SANDBOX_URL}/v2`, retryTimeoutMs: 0 });
const session = `newest-${randomUUID()}`;
const dir = `/workspace/${session}`;
await client.files.mkdir(dir, session, { recursive: true });

async function events(stream, framed = true) {
  const text = await new Response(stream).text();
  return text
    .split("\n")
    .filter((line) => line.startsWith("data: "))
    .map((line) => JSON.parse(line.slice(6)));
}

describe("commands", () => {
  test("a session is created on first use and keeps its state", async () => {
    await client.commands.execute(`cd ${dir}`, session);
    const result = await client.commands.execute("pwd; echo err >&2; (exit 4)", session);
    assert.equal(result.stdout.trimEnd(), dir);
    assert.equal(result.stderr.trimEnd(), "err");
    assert.equal(result.exitCode, 4);
  });

  test("directory, environment and time limit are the command's own", async () => {
    const result = await client.commands.execute("pwd; echo $ONE", session, { cwd: "/tmp", env: { ONE: "1" } });
    assert.equal(result.stdout.trimEnd(), "/tmp\n1");
  });

  test("output streams", async () => {
    const seen = await events(await client.commands.executeStream("echo a; echo b >&2; false", session));
    assert.deepEqual(seen.map(({ type }) => type).sort(), ["complete", "start", "stderr", "stdout"]);
    assert.equal(seen.at(-1).exitCode, 1);
  });
});

describe("files", () => {
  test("bytes are exact in both encodings", async () => {
    await client.files.writeFile(`${dir}/t.txt`, "no newline", session);
    assert.equal((await client.files.readFile(`${dir}/t.txt`, session)).content, "no newline");
    const bytes = Buffer.from([0, 255, 128, 10]).toString("base64");
    await client.files.writeFile(`${dir}/b.bin`, bytes, session, { encoding: "base64" });
    assert.equal((await client.files.readFile(`${dir}/b.bin`, session, { encoding: "base64" })).content, bytes);
  });

  test("a missing file is its own error", async () => {
    await assert.rejects(client.files.readFile(`${dir}/nothing`, session), { name: "FileNotFoundError" });
  });

  test("exists, list, rename, move and delete", async () => {
    await client.files.writeFile(`${dir}/x`, "1", session);
    assert.equal((await client.files.exists(`${dir}/x`, session)).exists, true);
    await client.files.renameFile(`${dir}/x`, `${dir}/y`, session);
    await client.files.moveFile(`${dir}/y`, `${dir}/z`, session);
    const listed = await client.files.listFiles(dir, session);
    assert.ok(listed.files.some(({ name }) => name === "z"));
    assert.equal(listed.count, listed.files.length);
    await client.files.deleteFile(`${dir}/z`, session);
    assert.equal((await client.files.exists(`${dir}/z`, session)).exists, false);
  });
});

describe("processes", () => {
  test("one starts, streams its log to the end, and is listed", async () => {
    const started = await client.processes.startProcess("echo one; echo two; exit 5", session);
    assert.ok(started.processId);
    const seen = await events(await client.processes.streamProcessLogs(started.processId));
    assert.equal(seen[0].type, "process_info");
    assert.equal(seen.filter(({ type }) => type === "stdout").map(({ data }) => data).join(""), "one\ntwo\n");
    assert.equal(seen.find(({ type }) => type === "exit").exitCode, 5);
    assert.ok((await client.processes.listProcesses()).processes.some(({ id }) => id === started.processId));
  });

  test("one is killed", async () => {
    const started = await client.processes.startProcess("sleep 300", session);
    await client.processes.killProcess(started.processId);
    assert.equal((await client.processes.getProcess(started.processId)).process.status, "killed");
  });
});

describe("the interpreter", () => {
  test("a context keeps state and streams", async () => {
    const context = await client.interpreter.createCodeContext({ language: "python" });
    await client.interpreter.runCodeStream(context.id, "x = 41", "python", {});
    const seen = [];
    await client.interpreter.runCodeStream(context.id, "print('out')\nx + 1", "python", {
      onStdout: ({ text }) => seen.push(text),
      onResult: ({ text }) => seen.push(text),
    });
    assert.deepEqual(seen, ["out\n", "42"]);
    assert.ok((await client.interpreter.listCodeContexts()).some(({ id }) => id === context.id));
    await client.interpreter.deleteCodeContext(context.id);
  });

  test("an error is told", async () => {
    const context = await client.interpreter.createCodeContext({ language: "python" });
    let error;
    await client.interpreter.runCodeStream(context.id, "1 / 0", "python", { onError: (e) => (error = e) });
    assert.equal(error.name, "ZeroDivisionError");
  });
});

describe("the rest", () => {
  test("sessions are created and deleted", async () => {
    const id = `made-${randomUUID()}`;
    assert.equal((await client.utils.createSession({ id, cwd: "/tmp" })).success, true);
    assert.equal((await client.utils.deleteSession(id)).success, true);
  });

  test("the version is told", async () => {
    assert.match(await client.utils.getVersion(), /^\d+\.\d+/);
  });
});
