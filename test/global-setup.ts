import type { TestProject } from 'vitest/node'
import { compile } from './compiled.ts'
import { type RunningServer, startServer, type TestServer, wantedServers } from './servers/index.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    servers: TestServer[]
  }
}

/** Each project of vitest.config.ts calls for its own instance of this module. They share the servers. */
const shared = globalThis as typeof globalThis & {
  rowlockServers?: { users: number; starting: Promise<RunningServer[]> }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  shared.rowlockServers ??= { users: 0, starting: startAll() }
  const servers = shared.rowlockServers
  servers.users++
  const running = await servers.starting
  project.provide(
    'servers',
    running.map(({ stop, crash, ...server }) => server),
  )
  return async () => {
    if (--servers.users === 0) await stopAll(running)
  }
}

async function startAll(): Promise<RunningServer[]> {
  await compile()
  const outcomes = await Promise.allSettled(wantedServers().map((name) => startServer(name)))
  const running = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []))
  const failures = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []))
  if (failures.length > 0) {
    await stopAll(running)
    throw new Error(failures.map((failure) => failure.message).join('\n'), { cause: failures[0] })
  }
  return running
}

async function stopAll(running: readonly RunningServer[]): Promise<void> {
  await Promise.all(running.map((server) => server.stop()))
}
