import type { TestProject } from 'vitest/node'
import { compile } from './compiled.ts'
import { startServer, type TestServer, wantedServers } from './servers/index.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    servers: TestServer[]
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  await compile()
  const outcomes = await Promise.allSettled(wantedServers().map((name) => startServer(name)))
  const running = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []))
  const failures = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []))
  const stopAll = async () => {
    await Promise.all(running.map((server) => server.stop()))
  }
  if (failures.length > 0) {
    await stopAll()
    throw new Error(failures.map((failure) => failure.message).join('\n'), { cause: failures[0] })
  }
  project.provide(
    'servers',
    running.map(({ stop, crash, ...server }) => server),
  )
  return stopAll
}
