import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { createDatabase, query } from '../test/connect.ts'
import { findProgram, installPackages } from '../test/servers/debian.ts'
import { type RunningServer, serverNames, startServer } from '../test/servers/index.ts'
import { connect } from './drivers.ts'
import { createLocks } from './library.ts'

export const engines = [...serverNames, 'sqlite'] as const

export type Engine = (typeof engines)[number]

/** Where contenders connect to: a database of the engine, and Redis beside it. */
export interface Target {
  readonly engine: Engine
  /** Of a file, its path. */
  readonly url: string
  readonly redis: Address
}

export interface Address {
  readonly host: string
  readonly port: number
}

interface RunningRedis extends Address {
  stop(): Promise<void>
}

/** The servers of one run of the benchmark: started once, and each measurement has a database of its own. */
export class Servers {
  readonly #servers = new Map<Engine, RunningServer>()
  readonly #drops: (() => Promise<unknown>)[] = []
  readonly versions: Record<string, string> = {}
  #redis: RunningRedis | undefined

  async start(wanted: readonly Engine[]): Promise<void> {
    const starting = [
      startRedis().then(async (redis) => {
        this.#redis = redis
        this.versions.redis = await redisVersion(redis)
      }),
      ...serverNames
        .filter((name) => wanted.includes(name))
        .map(async (name) => {
          const server = await startServer(name)
          this.#servers.set(name, server)
          await assertDurable(server)
          const [row] = await query(server.url, 'select version() as version')
          this.versions[name] = String(row?.version)
        }),
    ]
    // All of them, so that those which did start are stopped when another did not.
    const failed = (await Promise.allSettled(starting)).find((outcome) => outcome.status === 'rejected')
    if (failed !== undefined) throw failed.reason
  }

  /** An empty database with rowlock's tables and `bench_locks`, the table of the floors, which is like rowlock's. */
  async target(engine: Engine): Promise<Target> {
    const target = { engine, url: await this.#database(engine), redis: this.#redis! }
    const connection = await connect(target, 1)
    try {
      const locks = createLocks(connection.adapter)
      await locks.migrate()
      await locks.close()
      await connection.sql(FLOOR_TABLES[kindOf(engine)])
    } finally {
      await connection.close()
    }
    return { ...target, redis: { host: target.redis.host, port: target.redis.port } }
  }

  async stop(): Promise<void> {
    for (const drop of this.#drops.reverse()) await drop()
    await Promise.all([...this.#servers.values(), ...(this.#redis ? [this.#redis] : [])].map((server) => server.stop()))
  }

  async #database(engine: Engine): Promise<string> {
    if (engine === 'sqlite') {
      const folder = await mkdtemp(join(tmpdir(), 'rowlock-bench-'))
      this.#drops.push(() => rm(folder, { recursive: true }))
      return join(folder, 'locks.sqlite')
    }
    const server = this.#servers.get(engine)
    if (server === undefined) throw new Error(`${engine} was not started`)
    const database = await createDatabase(server)
    this.#drops.push(() => database.drop())
    return database.url
  }
}

export type EngineKind = 'postgres' | 'mysql' | 'sqlite'

export function kindOf(engine: Engine): EngineKind {
  if (engine === 'sqlite') return engine
  return engine.startsWith('postgres') ? 'postgres' : 'mysql'
}

const FLOOR_TABLES: Record<EngineKind, string> = {
  postgres: `create table bench_locks (
    name text collate "C" primary key, owner text, token bigint not null, expires_at timestamptz not null
  ) with (fillfactor = 50)`,
  mysql: `create table bench_locks (
    name varbinary(255) not null primary key, owner varbinary(64), token bigint not null, expires_at bigint not null
  ) engine = InnoDB`,
  sqlite: `create table bench_locks (
    name text not null primary key, owner text, token integer not null, expires_at integer not null
  ) without rowid`,
}

/** What is committed has to be on the disk, or all figures would flatter. */
const DURABLE: Record<RunningServer['engine'], Record<string, string>> = {
  postgres: {
    "current_setting('fsync')": 'on',
    "current_setting('synchronous_commit')": 'on',
    "current_setting('full_page_writes')": 'on',
  },
  mysql: { '@@innodb_flush_log_at_trx_commit': '1', '@@log_bin = 0 or @@sync_binlog = 1': '1' },
}

async function assertDurable({ name, engine, url }: RunningServer): Promise<void> {
  for (const [setting, wanted] of Object.entries(DURABLE[engine])) {
    const [row] = await query(url, `select ${setting} as value`)
    if (String(row?.value) !== wanted) {
      throw new Error(`${name} does not commit durably: ${setting} is ${row?.value}, and ${wanted} is needed here`)
    }
  }
}

/** A Redis that keeps nothing on disk, which is the fastest it can be. */
async function startRedis(): Promise<RunningRedis> {
  if ((await findProgram('redis-server')) === null) await installPackages('redis-server')
  const program = await findProgram('redis-server')
  if (program === null) throw new Error("Debian's redis-server is installed, but its program is not found")
  const address = { host: '127.0.0.1', port: await freePort() }
  const settings = ['--port', `${address.port}`, '--bind', address.host, '--save', '', '--appendonly', 'no']
  // Ends when this process does, however that happens.
  const setpriv = await findProgram('setpriv')
  const server =
    setpriv === null
      ? spawn(program, settings, { stdio: 'ignore' })
      : spawn(setpriv, ['--pdeathsig=TERM', program, ...settings], { stdio: 'ignore' })
  const kill = () => server.kill('SIGKILL')
  process.once('exit', kill)
  const probe = new Redis({ ...address, retryStrategy: () => 50, maxRetriesPerRequest: 100 })
  // It is not there at once; ping() says so if it never is.
  probe.on('error', () => undefined)
  await probe.ping()
  probe.disconnect()
  return {
    ...address,
    async stop() {
      process.off('exit', kill)
      if (server.exitCode !== null || server.signalCode !== null) return
      const exit = once(server, 'exit')
      server.kill('SIGTERM')
      await exit
    },
  }
}

async function redisVersion(address: Address): Promise<string> {
  const redis = new Redis({ ...address })
  const info = await redis.info('server')
  redis.disconnect()
  return `Redis ${/redis_version:(\S+)/.exec(info)?.[1]}`
}

async function freePort(): Promise<number> {
  const probe = createServer()
  probe.listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as AddressInfo
  probe.close()
  await once(probe, 'close')
  return port
}

let names = 0

/** A lock name that nothing else uses. */
export function freshName(): string {
  return `bench:${randomBytes(4).toString('hex')}:${++names}`
}
