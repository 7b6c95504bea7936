import { untilAnswering } from './answering.ts'
import { dockerAnswers, startInDocker } from './docker.ts'
import { prepareMariadb, prepareMysql, startMariadb, startMysql } from './mysql.ts'
import { preparePostgres15, preparePostgres18, startPostgres15, startPostgres18 } from './postgres.ts'
import { type RunningServer, type ServerName, serverKinds, serverNames } from './server.ts'

export { prepareNode24 } from './node24.ts'
export { type RunningServer, type ServerName, serverNames, type TestServer } from './server.ts'

const fromBinaries = {
  postgres18: { prepare: preparePostgres18, start: startPostgres18 },
  postgres15: { prepare: preparePostgres15, start: startPostgres15 },
  mysql: { prepare: prepareMysql, start: startMysql },
  mariadb: { prepare: prepareMariadb, start: startMariadb },
}

/** All servers but those named in `ROWLOCK_TEST_EXCLUDE`, a list separated by commas. */
export function wantedServers(): ServerName[] {
  const excluded = (process.env.ROWLOCK_TEST_EXCLUDE ?? '').split(/[\s,]+/).filter(Boolean)
  const unknown = excluded.find((name) => !serverNames.some((known) => known === name))
  if (unknown !== undefined) {
    throw new Error(`ROWLOCK_TEST_EXCLUDE names ${unknown}; the servers are ${serverNames.join(', ')}`)
  }
  return serverNames.filter((name) => !excluded.includes(name))
}

/** Installs or downloads what `startServer(name)` needs, if it is not there yet. */
export async function prepareServer(name: ServerName): Promise<void> {
  await orSayWhatToDo(name, async () => {
    if (urlFromEnvironment(name) === undefined && !(await dockerAnswers())) {
      await fromBinaries[name].prepare()
    }
  })
}

/**
 * A server from the first source there is: a URL in the environment, a Docker engine, or binaries run on this machine with
 * a data directory of their own. `env` is added to the environment of one that runs from binaries.
 */
export async function startServer(name: ServerName, env?: NodeJS.ProcessEnv): Promise<RunningServer> {
  return await orSayWhatToDo(name, async () => {
    const url = urlFromEnvironment(name)
    if (url !== undefined) return await useRunning(name, url)
    if (await dockerAnswers()) return await startInDocker(serverKinds[name])
    return await fromBinaries[name].start(env)
  })
}

async function useRunning(name: ServerName, url: string): Promise<RunningServer> {
  await untilAnswering(url, { seconds: 10 })
  return { ...serverKinds[name], url, logFile: null, pid: null, stop: async () => {} }
}

function urlFromEnvironment(name: ServerName): string | undefined {
  return process.env[urlVariable(name)] || undefined
}

function urlVariable(name: ServerName): string {
  return `ROWLOCK_TEST_${name.toUpperCase()}_URL`
}

async function orSayWhatToDo<T>(name: ServerName, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    const advice = `Set ${urlVariable(name)}, start Docker, or exclude it with ROWLOCK_TEST_EXCLUDE=${name}.`
    throw new Error(`No ${name} server to test with: ${reason}\n${advice}`, { cause: error })
  }
}
