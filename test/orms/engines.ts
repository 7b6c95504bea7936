import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inject } from 'vitest'
import type { Connected, ConnectOptions } from '../adapters.ts'
import { createDatabase } from '../connect.ts'
import { openEngine, type TestEngine } from '../engines.ts'
import type { ServerName } from '../servers/server.ts'

/** An engine through an ORM. No worker process connects to it, so `connectors` need not know it. */
export type OrmEngine = Omit<TestEngine, 'connector'>

export interface OrmConnected extends Omit<Connected, 'withoutTransaction'> {
  /** The ORM's own instance, which is no transaction. */
  readonly db: unknown
}

type Connect = (url: string, options?: ConnectOptions) => OrmConnected | Promise<OrmConnected>

/** An ORM on a server; none if this run has excluded that server. */
export function onServer(orm: string, connect: Connect, serverName: ServerName): OrmEngine[] {
  const server = inject('servers').find(({ name }) => name === serverName)
  if (server === undefined) return []
  const title = { postgres18: 'PostgreSQL 18', postgres15: 'PostgreSQL 15', mysql: 'MySQL', mariadb: 'MariaDB' }
  const engine: OrmEngine = {
    name: `${orm} on ${title[serverName]}`,
    engine: server.engine,
    server,
    isolations: ['read committed', 'repeatable read', 'serializable'],
    shared: true,
    sessions: false,
    async open() {
      const { url, drop } = await createDatabase(server)
      return openEngine(url, async (options) => complete(await connect(url, options)), drop)
    },
  }
  return [engine]
}

/** An ORM on SQLite, in a file of its own. */
export function onSqlite(orm: string, connect: Connect): OrmEngine {
  return {
    name: `${orm} on SQLite`,
    engine: 'sqlite',
    server: undefined,
    isolations: [],
    shared: true,
    sessions: false,
    async open() {
      const folder = await mkdtemp(join(tmpdir(), 'rowlock-'))
      const path = join(folder, 'locks.sqlite')
      return openEngine(
        path,
        async (options) => complete(await connect(path, options)),
        () => rm(folder, { recursive: true }),
      )
    },
  }
}

function complete(connected: OrmConnected): Connected {
  return { ...connected, withoutTransaction: (use) => use(connected.db, "the ORM's own instance") }
}

/** Of versions and kin of one engine, the first that is here. */
const KIN = [
  ['postgres18', 'postgres15'],
  ['mysql', 'mariadb'],
]

/**
 * For suites that are slow, since they wait for most of their time: an ORM on one server of each engine. `npm run test:slow` has
 * them all.
 */
export function oncePerEngine(engines: readonly OrmEngine[]): OrmEngine[] {
  const here = inject('servers').map(({ name }) => name as string)
  const chosen = KIN.map((kin) => kin.find((name) => here.includes(name)))
  return engines.filter(
    ({ server }) =>
      server !== undefined && (process.env.ROWLOCK_TEST_SLOW !== undefined || chosen.includes(server.name)),
  )
}
