import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inject } from 'vitest'
import { MemoryDatabase } from '../src/adapters/memory.ts'
import { createLocks, type InstanceOptions, type Locks } from '../src/index.ts'
import { type Connected, type ConnectOptions, connectors, type Isolation } from './adapters.ts'
import { createDatabase } from './connect.ts'
import type { ServerName, TestServer } from './servers/server.ts'

/** An adapter on an engine: what every contract suite runs on. */
export interface TestEngine {
  readonly name: string
  readonly engine: 'postgres' | 'mysql' | 'sqlite' | 'memory'
  /** Key of `connectors`, for worker processes. */
  readonly connector: keyof typeof connectors
  readonly server: TestServer | undefined
  /** The isolation levels that its transactions can have; none to choose from where the list is empty. */
  readonly isolations: readonly Isolation[]
  /** Whether several processes, or at least several connections, can share one database. */
  readonly shared: boolean
  /** Whether `takeover: 'session'` works. */
  readonly sessions: boolean
  /** A fresh database with rowlock's tables. */
  open(): Promise<OpenEngine>
}

export interface OpenEngine {
  /** For worker processes: what connectors take. */
  readonly url: string
  /** The connection that tests use unless they make their own. */
  readonly connected: Connected
  /** A connection of its own, as another process would have (the same one where the engine has just one). */
  connect(options?: ConnectOptions): Promise<Connected>
  /** An instance on a connection of its own. Closed by `close`. */
  locks(options?: InstanceOptions & ConnectOptions): Promise<Locks<unknown>>
  /** Closes all of the above and removes the database. */
  close(): Promise<void>
}

const SQL_ISOLATIONS: readonly Isolation[] = ['read committed', 'repeatable read', 'serializable']

function served(name: string, connector: 'pg' | 'mysql2' | 'kysely-postgres' | 'kysely-mysql', serverName: ServerName) {
  const server = inject('servers').find((running) => running.name === serverName)
  if (server === undefined) return []
  const engine: TestEngine = {
    name,
    engine: server.engine,
    connector,
    server,
    isolations: SQL_ISOLATIONS,
    shared: true,
    sessions: connector === 'pg' || connector === 'mysql2',
    async open() {
      const database = await createDatabase(server)
      return openEngine(
        database.url,
        async (options) => connectors[connector](database.url, options),
        () => database.drop(),
      )
    },
  }
  return [engine]
}

function onFile(name: string, connector: 'better-sqlite3' | 'node-sqlite' | 'kysely-sqlite'): TestEngine {
  return {
    name,
    engine: 'sqlite',
    connector,
    server: undefined,
    isolations: [],
    shared: true,
    sessions: false,
    async open() {
      const folder = await mkdtemp(join(tmpdir(), 'rowlock-'))
      const path = join(folder, 'locks.sqlite')
      return openEngine(
        path,
        () => connectors[connector](path),
        () => rm(folder, { recursive: true }),
      )
    },
  }
}

const pglite: TestEngine = {
  name: 'pglite',
  engine: 'postgres',
  connector: 'pglite',
  server: undefined,
  isolations: SQL_ISOLATIONS,
  shared: false,
  sessions: false,
  async open() {
    const only = await connectors.pglite()
    return openEngine(
      '',
      async () => ({ ...only, close: async () => undefined }),
      () => only.close(),
    )
  },
}

const memory: TestEngine = {
  name: 'memory',
  engine: 'memory',
  connector: 'memory',
  server: undefined,
  isolations: [],
  shared: false,
  sessions: false,
  async open() {
    const database = new MemoryDatabase()
    return openEngine(
      '',
      async () => connectors.memory(database),
      async () => undefined,
    )
  },
}

/** All that this version of Node can run and this run has not excluded. */
export function engines(): TestEngine[] {
  if (Number.parseInt(process.versions.node, 10) >= 24) return [onFile('node:sqlite', 'node-sqlite')]
  return [
    ...served('pg on PostgreSQL 18', 'pg', 'postgres18'),
    ...served('pg on PostgreSQL 15', 'pg', 'postgres15'),
    ...served('mysql2 on MySQL', 'mysql2', 'mysql'),
    ...served('mysql2 on MariaDB', 'mysql2', 'mariadb'),
    onFile('better-sqlite3', 'better-sqlite3'),
    memory,
    ...served('Kysely on PostgreSQL 18', 'kysely-postgres', 'postgres18'),
    ...served('Kysely on MySQL', 'kysely-mysql', 'mysql'),
    ...served('Kysely on MariaDB', 'kysely-mysql', 'mariadb'),
    onFile('Kysely on SQLite', 'kysely-sqlite'),
    // Last, since it does not run beside others, and would part those that do.
    pglite,
  ]
}

let names = 0

/** A lock name that no other test uses. */
export function freshName(): string {
  return `test:${randomBytes(4).toString('hex')}:${++names}`
}

/** An engine on which `connect` connects; `remove` removes its database. */
export async function openEngine(
  url: string,
  connect: (options?: ConnectOptions) => Promise<Connected>,
  remove: () => Promise<unknown>,
): Promise<OpenEngine> {
  const open: (() => Promise<unknown>)[] = []
  const track = async (options?: ConnectOptions) => {
    const connected = await connect(options)
    open.push(() => connected.close())
    return connected
  }
  const connected = await track()
  const migrating = createLocks(connected.adapter)
  await migrating.migrate()
  await migrating.close()
  return {
    url,
    connected,
    connect: track,
    async locks(options = {}) {
      const { poolSize, ...rest } = options
      const locks = createLocks((await track(poolSize === undefined ? {} : { poolSize })).adapter, rest)
      open.push(() => locks.close())
      return locks
    },
    async close() {
      // Instances before the connections that they use.
      for (const close of open.reverse()) await close()
      await remove()
    },
  }
}
