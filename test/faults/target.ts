import { copyFile, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { createLocks } from '../../src/index.ts'
import { type GaleraCluster, startGalera } from '../clusters/galera.ts'
import { connect, createDatabase, type TestConnection } from '../connect.ts'
import { type ServerName, serverNames, startServer } from '../servers/index.ts'
import { makeServerClock } from './server-clock.ts'
import { connectWork, type Dialect, whenNotBusy } from './work.ts'

export const engineNames = [...serverNames, 'galera', 'sqlite'] as const
export type EngineName = (typeof engineNames)[number]

/** What a run is done to: a database of its own, on servers of its own. */
export interface Target {
  readonly name: EngineName
  readonly dialect: Dialect
  /** Of the database, on each node there is. For SQLite the path of the file. */
  readonly urls: readonly [string, ...string[]]
  /** A connection of the orchestrator's, past all proxies, to the node that the worker at `place` uses. Default: the first. */
  connect(place?: number): Promise<TestConnection>
  /** Kills the server without a warning and starts it again. Undefined: cannot be done. */
  readonly crash: (() => Promise<void>) | undefined
  /** Moves the server's clock by so many seconds. Undefined: cannot be done. */
  readonly advanceClock: ((seconds: number) => Promise<void>) | undefined
  /** Null for a single server. */
  readonly cluster: GaleraCluster | null
  /** Copies the servers' logs there. */
  keepLogs(directory: string): Promise<void>
  stop(): Promise<void>
}

export interface TargetOptions {
  /** Whether the server's clock is going to be set. */
  readonly clock: boolean
}

export async function startTarget(name: EngineName, options: TargetOptions): Promise<Target> {
  if (name === 'sqlite') return onFile()
  if (name === 'galera') return onGalera(options)
  return onServer(name, options)
}

/** Makes rowlock's tables. */
export async function migrate({ dialect, urls }: Target): Promise<void> {
  const work = await connectWork(dialect, urls[0])
  const locks = createLocks(work.adapter)
  await locks.migrate()
  await locks.close()
  await work.close()
}

async function onServer(name: ServerName, { clock }: TargetOptions): Promise<Target> {
  const serverClock = clock ? await makeServerClock() : null
  const server = await startServer(name, serverClock?.env)
  const database = await createDatabase(server)
  return {
    name,
    dialect: server.engine,
    urls: [database.url],
    connect: () => connect(database.url),
    crash: server.crash,
    advanceClock: server.crash && serverClock?.advance,
    cluster: null,
    keepLogs: (directory) => keep(server.logFile, directory),
    async stop() {
      // A server that is not ours goes on.
      if (server.crash === undefined) await database.drop()
      await server.stop()
      await serverClock?.remove()
    },
  }
}

async function keep(logFile: string | null, directory: string, name = 'server.log'): Promise<void> {
  if (logFile === null) return
  await mkdir(directory, { recursive: true })
  await copyFile(logFile, join(directory, name))
}

async function onGalera({ clock }: TargetOptions): Promise<Target> {
  const serverClock = clock ? await makeServerClock() : null
  const cluster = await startGalera(serverClock?.env)
  const { nodes } = cluster
  const database = await createDatabase({ engine: 'mysql', url: nodes[0]!.url })
  const { pathname } = new URL(database.url)
  const urls = nodes.map(({ url }) => new URL(pathname, url).href) as [string, ...string[]]
  return {
    name: 'galera',
    dialect: 'mysql',
    urls,
    connect: (place = 0) => connect(urls[place % urls.length]!),
    crash: undefined,
    advanceClock: serverClock?.advance,
    cluster,
    async keepLogs(directory) {
      for (const [index, { logFile }] of nodes.entries()) await keep(logFile, directory, `node-${index}.log`)
    },
    async stop() {
      await cluster.stop()
      await serverClock?.remove()
    },
  }
}

async function onFile(): Promise<Target> {
  const { default: Database } = await import('better-sqlite3')
  const directory = await mkdtemp(join(tmpdir(), 'rowlock-sqlite-'))
  const path = join(directory, 'work.sqlite')
  const first = new Database(path)
  first.pragma('journal_mode = wal')
  first.close()
  return {
    name: 'sqlite',
    dialect: 'sqlite',
    urls: [path],
    async connect() {
      const database = new Database(path, { timeout: 0 })
      return {
        query: (sql) =>
          whenNotBusy(() => {
            const statement = database.prepare(sql)
            if (statement.reader) return statement.all() as Record<string, unknown>[]
            statement.run()
            return []
          }),
        close: async () => void database.close(),
      }
    },
    crash: undefined,
    advanceClock: undefined,
    cluster: null,
    keepLogs: async (target) => keep(path, target, basename(path)),
    stop: () => rm(directory, { recursive: true }),
  }
}
