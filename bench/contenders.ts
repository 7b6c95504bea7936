import { randomUUID } from 'node:crypto'
import { utimesSync, watch, writeFileSync } from 'node:fs'
import { LockFactory } from '@verrou/core'
import { knexStore } from '@verrou/core/drivers/knex'
import { kyselyStore } from '@verrou/core/drivers/kysely'
import advisoryLock from 'advisory-lock'
import { Redis } from 'ioredis'
import type { Pool, PoolConnection, ResultSetHeader } from 'mysql2/promise'
import type { Pool as PgPool, QueryConfig } from 'pg'
import Redlock from 'redlock'
import type { Statement } from '../src/adapters/adapter.ts'
import type { Adapter, InstanceOptions } from '../src/index.ts'
import { connect, openMysqlPool, openPgPool, openSqlite } from './drivers.ts'
import { createLocks, postgresStatements } from './library.ts'
import { numbered, type OrmName, openKnex, openKysely, openOrm } from './orms.ts'
import { type Engine, type EngineKind, kindOf, type Target } from './servers.ts'

/** Something that locks, with what it needs to do so. */
export interface Contender {
  /** Waits for the lock. */
  acquire(name: string): Promise<Held>
  close(): Promise<unknown>
}

export interface Held {
  release(): Promise<unknown>
  /** Of those whose holders have to ask for it, each for itself. */
  extend?(): Promise<unknown>
}

interface Kind {
  readonly engines: readonly Engine[]
  /** Whether everybody who holds or waits for a lock keeps a connection of the database for that. */
  readonly connectionPerCaller?: boolean
  open(target: Target, connections: number): Contender | Promise<Contender>
}

export type ContenderName = keyof typeof contenders

const TTL_MS = 30_000
/** Nobody's patience shall end a measurement. */
const LONGEST_WAIT_MS = 600_000
/** While a client deals with the answers to one, the server works on the other. */
const STATEMENTS_AT_ONCE = 2

const POSTGRES = ['postgres18', 'postgres15'] as const
const MYSQL = ['mysql', 'mariadb'] as const
const ALL = [...POSTGRES, ...MYSQL, 'sqlite'] as const

const MYSQL_NOW = `timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))`
const SQLITE_NOW = `cast(unixepoch('subsec') * 1000 as integer)`

export const contenders = {
  rowlock: {
    engines: ALL,
    open: async (target, connections) => {
      const { adapter, close } = await connect(target, connections)
      return rowlock(adapter, {}, close)
    },
  },

  'rowlock (Kysely)': { engines: ALL, open: rowlockThrough('Kysely') },
  'rowlock (Knex)': { engines: ALL, open: rowlockThrough('Knex') },
  'rowlock (Drizzle)': { engines: POSTGRES, open: rowlockThrough('Drizzle') },
  'rowlock (TypeORM)': { engines: POSTGRES, open: rowlockThrough('TypeORM') },
  'rowlock (Sequelize)': { engines: POSTGRES, open: rowlockThrough('Sequelize') },
  'rowlock (Prisma)': { engines: POSTGRES, open: rowlockThrough('Prisma') },

  "rowlock, takeover: 'session'": {
    engines: [...POSTGRES, ...MYSQL],
    open: async (target, connections) => {
      const { adapter, close } = await connect(target, connections)
      return rowlock(adapter, { takeover: 'session' }, close)
    },
  },

  /** What any lock in a table needs at least, prepared and in autocommit. */
  'raw UPDATEs': {
    engines: ALL,
    open: (target, connections) => {
      switch (kindOf(target.engine)) {
        case 'postgres':
          return postgresUpdates(target, connections, 'durable')
        case 'mysql':
          return mysqlUpdates(target, connections)
        case 'sqlite':
          return sqliteUpdates(target)
      }
    },
  },

  /** The same through ORMs, which prepare nothing on a server. */
  'raw UPDATEs (Kysely)': { engines: ALL, open: updatesThrough('Kysely') },
  'raw UPDATEs (Knex)': { engines: POSTGRES, open: updatesThrough('Knex') },
  'raw UPDATEs (Drizzle)': { engines: POSTGRES, open: updatesThrough('Drizzle') },
  'raw UPDATEs (TypeORM)': { engines: POSTGRES, open: updatesThrough('TypeORM') },
  'raw UPDATEs (Sequelize)': { engines: POSTGRES, open: updatesThrough('Sequelize') },
  'raw UPDATEs (Prisma)': { engines: POSTGRES, open: updatesThrough('Prisma') },

  'raw UPDATEs, asynchronous release': {
    engines: POSTGRES,
    open: (target, connections) => postgresUpdates(target, connections, 'asynchronous'),
  },

  /** What the library itself costs is missing: leases, renewal, waiting, errors. */
  "rowlock's statements alone": { engines: POSTGRES, open: statementsAlone },

  /** Those of all callers who ask at once in one statement: what takes a lock each, in as few statements. */
  'raw UPDATEs, in batches': { engines: POSTGRES, open: postgresBatches },

  /** What any lock in a table needs at least to hand it over: a durable UPDATE, and word of it. For one waiter: it has no queue. */
  'raw hand-over': {
    engines: [...POSTGRES, 'sqlite'],
    open: (target, connections) =>
      target.engine === 'sqlite' ? sqliteHandOver(target) : postgresHandOver(target, connections),
  },

  pg_advisory_lock: {
    engines: POSTGRES,
    connectionPerCaller: true,
    open: ({ url }, connections) => {
      const pool = openPgPool(url, connections)
      return {
        async acquire(name) {
          const client = await pool.connect()
          await client.query({ name: 'lock', text: 'select pg_advisory_lock(hashtextextended($1, 0))', values: [name] })
          const unlock = { name: 'unlock', text: 'select pg_advisory_unlock(hashtextextended($1, 0))', values: [name] }
          return {
            async release() {
              await client.query(unlock)
              client.release()
            },
          }
        },
        close: () => pool.end(),
      }
    },
  },

  GET_LOCK: {
    engines: MYSQL,
    connectionPerCaller: true,
    open: ({ url }, connections) => {
      const pool = openMysqlPool(url, connections)
      return {
        async acquire(name) {
          const connection = await pool.getConnection()
          await connection.execute('select get_lock(?, ?)', [name, LONGEST_WAIT_MS / 1000])
          return {
            async release() {
              await connection.execute('select release_lock(?)', [name])
              connection.release()
            },
          }
        },
        close: () => pool.end(),
      }
    },
  },

  'SELECT FOR UPDATE': {
    engines: [...POSTGRES, ...MYSQL],
    connectionPerCaller: true,
    open: (target, connections) =>
      kindOf(target.engine) === 'postgres' ? postgresRowLocks(target, connections) : mysqlRowLocks(target, connections),
  },

  'advisory-lock': {
    engines: POSTGRES,
    connectionPerCaller: true,
    open: ({ url }) => {
      const createMutex = advisoryLock.default(url)
      return {
        acquire: async (name) => ({ release: await createMutex(name).lock() }),
        close: async () => undefined,
      }
    },
  },

  'verrou (Kysely)': {
    engines: ALL,
    open: (target, connections) => {
      const connection = openKysely(target, connections)
      const store = kyselyStore({ connection, tableName: 'verrou_kysely' }).factory()
      return verrou(new LockFactory(store), () => connection.destroy())
    },
  },

  'verrou (Knex)': {
    engines: ALL,
    open: (target, connections) => {
      const connection = openKnex(target, connections)
      const store = knexStore({ connection, tableName: 'verrou_knex' }).factory()
      return verrou(new LockFactory(store), () => connection.destroy())
    },
  },

  redlock: { engines: ALL, open: (target) => redlock(target, { enableAutoPipelining: false }) },

  /** ioredis sends the commands of one tick together if it is told to. */
  'redlock, auto-pipelined': { engines: ALL, open: (target) => redlock(target, { enableAutoPipelining: true }) },

  /** What the network charges for asking twice. */
  'two round trips': {
    engines: [...POSTGRES, ...MYSQL],
    open: async (target) => {
      const { sql, close } = await connect(target, 1)
      return {
        async acquire() {
          await sql('select 1')
          return { release: () => sql('select 1') }
        },
        close,
      }
    },
  },
} satisfies Record<string, Kind>

/** Connected, and past whatever it does when it is used for the first time. */
export async function open(name: ContenderName, target: Target, connections = 1): Promise<Contender> {
  const kind: Kind = contenders[name]
  const contender = await kind.open(target, connections)
  const held = await contender.acquire(`bench:first use:${randomUUID()}`)
  await held.release()
  return contender
}

export function takingPart(engine: Engine, names: readonly ContenderName[]): ContenderName[] {
  return names.filter((name) => (contenders[name] as Kind).engines.includes(engine))
}

export function needsConnectionPerCaller(name: ContenderName): boolean {
  return (contenders[name] as Kind).connectionPerCaller === true
}

function rowlock(adapter: Adapter<unknown>, options: InstanceOptions, disconnect: () => Promise<unknown>): Contender {
  const locks = createLocks(adapter, { ...options, ttl: TTL_MS, wait: LONGEST_WAIT_MS })
  return {
    async acquire(name) {
      const lease = await locks.acquire(name)
      return { release: () => lease.release() }
    },
    async close() {
      await locks.close()
      await disconnect()
    },
  }
}

function rowlockThrough(orm: OrmName): Kind['open'] {
  return async (target, connections) => {
    // Through Kysely, one of the pool's is rowlock's own.
    const isOneLent = orm === 'Kysely' && target.engine !== 'sqlite'
    const { adapter, close } = await openOrm(orm, target, isOneLent ? connections + 1 : connections)
    return rowlock(adapter, {}, close)
  }
}

function verrou(factory: LockFactory, close: () => Promise<unknown>): Contender {
  return {
    async acquire(name) {
      const lock = factory.createLock(name, TTL_MS)
      if (!(await lock.acquire({ retry: { timeout: LONGEST_WAIT_MS } }))) throw new Error('verrou gave up')
      return { release: () => lock.release(), extend: () => lock.extend() }
    },
    close,
  }
}

function redlock({ redis: address }: Target, options: { enableAutoPipelining: boolean }): Contender {
  const redis = new Redis({ ...address, ...options })
  const locks = new Redlock([redis], { retryCount: -1 })
  return {
    async acquire(name) {
      const lock = await locks.lock(name, TTL_MS)
      return { release: () => lock.unlock(), extend: () => lock.extend(TTL_MS) }
    },
    close: async () => redis.disconnect(),
  }
}

/** The raw UPDATEs: values stand where the question marks are, of `take` owner and name, of `give` name and owner. */
const UPDATES: Record<EngineKind, { readonly take: string; readonly give: string; readonly create: string }> = {
  postgres: {
    take: `update bench_locks set owner = ?, token = token + 1, expires_at = clock_timestamp() + interval '30 s'
      where name = ? and (owner is null or expires_at <= clock_timestamp()) returning token`,
    give: 'update bench_locks set owner = null where name = ? and owner = ? returning token',
    create: `insert into bench_locks (name, token, expires_at) values (?, 1, '-infinity') on conflict do nothing`,
  },
  mysql: {
    take: `update bench_locks set owner = ?, token = token + 1, expires_at = ${MYSQL_NOW} + 30000000
      where name = ? and (owner is null or expires_at <= ${MYSQL_NOW})`,
    give: 'update bench_locks set owner = null where name = ? and owner = ?',
    create: 'insert ignore into bench_locks values (?, null, 1, 0)',
  },
  sqlite: {
    take: `update bench_locks set owner = ?, token = token + 1, expires_at = ${SQLITE_NOW} + 30000
      where name = ? and (owner is null or expires_at <= ${SQLITE_NOW})`,
    give: 'update bench_locks set owner = null where name = ? and owner = ?',
    create: 'insert into bench_locks values (?, null, 1, 0) on conflict do nothing',
  },
}

function postgresUpdates({ url }: Target, connections: number, release: 'durable' | 'asynchronous'): Contender {
  const pool = openPgPool(url, connections)
  const takeText = numbered(UPDATES.postgres.take)
  const durable = numbered(UPDATES.postgres.give)
  const giveText =
    release === 'durable' ? durable : durable.replace(/token$/, `set_config('synchronous_commit', 'off', true)`)
  return postgresPair(pool, 'bench_locks', {
    take: (name, owner) => ({ name: 'take', text: takeText, values: [owner, name] }),
    give: (name, owner) => ({ name: 'give', text: giveText, values: [name, owner] }),
  })
}

function updatesThrough(orm: OrmName): Kind['open'] {
  return async (target, connections) => {
    const { update, close } = await openOrm(orm, target, connections)
    const { take, give, create } = UPDATES[kindOf(target.engine)]
    return {
      async acquire(name) {
        const owner = randomUUID()
        if ((await update(take, [owner, name])) === 0) {
          await update(create, [name])
          assertOne(await update(take, [owner, name]))
        }
        return { release: async () => assertOne(await update(give, [name, owner])) }
      },
      close,
    }
  }
}

function statementsAlone({ url }: Target, connections: number): Contender {
  const pool = openPgPool(url, connections)
  const { acquireOne, releaseOne } = postgresStatements({})
  return postgresPair(pool, 'rowlock_locks', {
    take: (name, owner) =>
      acquireOne({ name, owner, weight: null, permits: null, session: null, ttlMs: TTL_MS, holder: 'bench' }),
    give: (name, owner, token) => releaseOne({ name, owner, token: BigInt(token), process: '0' }),
  })
}

/** A statement that takes a lock and answers its token, and one that gives it back. */
interface PairOfStatements {
  take(name: string, owner: string): Statement
  give(name: string, owner: string, token: string): Statement
}

function postgresPair(pool: PgPool, table: string, { take, give }: PairOfStatements): Contender {
  const run = (statement: Statement) => pool.query(statement as QueryConfig)
  return {
    async acquire(name) {
      const owner = randomUUID()
      let taken = await run(take(name, owner))
      if (taken.rowCount === 0) {
        const create = `insert into ${table} (name, token, expires_at) values ($1, 1, '-infinity') on conflict do nothing`
        await pool.query(create, [name])
        taken = await run(take(name, owner))
        assertOne(taken.rowCount)
      }
      return { release: async () => assertOne((await run(give(name, owner, taken.rows[0].token))).rowCount) }
    },
    close: () => pool.end(),
  }
}

async function postgresHandOver({ url }: Target, connections: number): Promise<Contender> {
  const pool = openPgPool(url, connections)
  const waiting = new Map<string, () => void>()
  const listener = await pool.connect()
  listener.on('notification', ({ payload }) => waiting.get(payload!)?.())
  await listener.query('listen bench_handed')
  const handOver = `with handed as (
      update bench_locks set owner = $2, token = token + 1, expires_at = clock_timestamp() + interval '30 s' where name = $1 returning name
    ) select pg_notify('bench_handed', name) from handed`
  return {
    async acquire(name) {
      const { rowCount } = await pool.query(
        `insert into bench_locks values ($1, 'bench', 1, 'infinity') on conflict do nothing`,
        [name],
      )
      if (rowCount === 0) await new Promise<void>((resolve) => waiting.set(name, resolve))
      return {
        release: async () =>
          assertOne((await pool.query({ name: 'hand over', text: handOver, values: [name, randomUUID()] })).rowCount),
      }
    },
    async close() {
      listener.release()
      await pool.end()
    },
  }
}

/** The waiter watches a file that is touched after the commit: those of the database change before others can see it. */
function sqliteHandOver({ url }: Target): Contender {
  const database = openSqlite(url)
  const told = `${url}-told`
  writeFileSync(told, '', { flag: 'a' })
  const insert = database.prepare(`insert into bench_locks values (?, 'bench', 1, 0) on conflict do nothing`)
  const handOver = database.prepare('update bench_locks set owner = ?, token = token + 1 where name = ?')
  const handedOver = database.prepare('select 1 from bench_locks where name = ? and token > 1')
  return {
    async acquire(name) {
      if (insert.run(name).changes === 0) {
        await new Promise<void>((resolve) => {
          const watcher = watch(told, () => {
            if (handedOver.get(name) === undefined) return
            watcher.close()
            resolve()
          })
        })
      }
      return {
        async release() {
          assertOne(handOver.run(randomUUID(), name).changes)
          utimesSync(told, new Date(), new Date())
        },
      }
    },
    close: async () => database.close(),
  }
}

/** Without owners, queues and errors of callers to care for. */
function postgresBatches({ url }: Target, connections: number): Contender {
  const pool = openPgPool(url, connections)
  const known = new Set<string>()
  const send = async (name: string, text: string, names: readonly string[]) => {
    const { rowCount } = await pool.query({ name, text, values: [names] })
    if (rowCount !== names.length) throw new Error(`the raw UPDATE changed ${rowCount} rows of ${names.length}`)
  }
  const take = inBatches(async (names) => {
    const unknown = names.filter((name) => !known.has(name))
    if (unknown.length > 0) {
      await pool.query(
        `insert into bench_locks select unnest($1::text[]), null, 1, '-infinity' on conflict do nothing`,
        [unknown],
      )
      for (const name of unknown) known.add(name)
    }
    await send(
      'take',
      `update bench_locks as l
       set owner = 'bench', token = token + 1, expires_at = clock_timestamp() + interval '30 s'
       from unnest((select $1::text)::text[]) as asked(name)
       where l.name = asked.name and (owner is null or expires_at <= clock_timestamp())`,
      names,
    )
  })
  const give = inBatches((names) =>
    send(
      'give',
      `update bench_locks as l set owner = null
       from unnest((select $1::text)::text[]) as asked(name), set_config('synchronous_commit', 'off', true)
       where l.name = asked.name and owner = 'bench'`,
      names,
    ),
  )
  return {
    async acquire(name) {
      await take(name)
      return { release: () => give(name) }
    },
    close: () => pool.end(),
  }
}

/** What is asked for in one tick, or while as many statements as are of use are under way, goes into one. */
function inBatches(send: (names: readonly string[]) => Promise<unknown>): (name: string) => Promise<void> {
  const waiting: { name: string; resolve(): void; reject(error: unknown): void }[] = []
  let underWay = 0
  const go = async () => {
    const batch = waiting.splice(0, Math.ceil(waiting.length / Math.max(1, STATEMENTS_AT_ONCE - underWay)))
    if (batch.length === 0) return
    underWay++
    try {
      await send(batch.map(({ name }) => name))
      for (const { resolve } of batch) resolve()
    } catch (error) {
      for (const { reject } of batch) reject(error)
    }
    underWay--
    await go()
  }
  return (name) =>
    new Promise((resolve, reject) => {
      waiting.push({ name, resolve, reject })
      if (waiting.length === 1 && underWay < STATEMENTS_AT_ONCE) process.nextTick(go)
    })
}

function mysqlUpdates({ url }: Target, connections: number): Contender {
  const pool = openMysqlPool(url, connections)
  const { take, give, create } = UPDATES.mysql
  return {
    async acquire(name) {
      const owner = randomUUID()
      if ((await changed(pool, take, [owner, name])) === 0) {
        await changed(pool, create, [name])
        assertOne(await changed(pool, take, [owner, name]))
      }
      return { release: async () => assertOne(await changed(pool, give, [name, owner])) }
    },
    close: () => pool.end(),
  }
}

async function changed(connection: Pool | PoolConnection, text: string, values: string[]): Promise<number> {
  const [result] = await connection.execute<ResultSetHeader>(text, values)
  return result.affectedRows
}

function sqliteUpdates({ url }: Target): Contender {
  const database = openSqlite(url)
  const take = database.prepare(UPDATES.sqlite.take)
  const give = database.prepare(UPDATES.sqlite.give)
  const create = database.prepare(UPDATES.sqlite.create)
  return {
    async acquire(name) {
      const owner = randomUUID()
      if (take.run(owner, name).changes === 0) {
        create.run(name)
        assertOne(take.run(owner, name).changes)
      }
      return { release: async () => assertOne(give.run(name, owner).changes) }
    },
    close: async () => database.close(),
  }
}

function assertOne(rows: number | null): void {
  if (rows !== 1) throw new Error(`the raw UPDATE changed ${rows} rows`)
}

function postgresRowLocks({ url }: Target, connections: number): Contender {
  const pool = openPgPool(url, connections)
  const lock = { name: 'lock row', text: 'select token from bench_locks where name = $1 for update' }
  return {
    async acquire(name) {
      const client = await pool.connect()
      const found = async () => {
        await client.query('begin')
        return (await client.query({ ...lock, values: [name] })).rowCount === 1
      }
      if (!(await found())) {
        await client.query('rollback')
        await client.query(`insert into bench_locks values ($1, null, 1, '-infinity') on conflict do nothing`, [name])
        await found()
      }
      return {
        async release() {
          await client.query('commit')
          client.release()
        },
      }
    },
    close: () => pool.end(),
  }
}

function mysqlRowLocks({ url }: Target, connections: number): Contender {
  const pool = openMysqlPool(url, connections)
  return {
    async acquire(name) {
      const connection = await pool.getConnection()
      const found = async () => {
        await connection.query('start transaction')
        const [rows] = await connection.execute('select token from bench_locks where name = ? for update', [name])
        return (rows as unknown[]).length === 1
      }
      if (!(await found())) {
        await connection.query('rollback')
        await connection.execute('insert ignore into bench_locks values (?, null, 1, 0)', [name])
        await found()
      }
      return {
        async release() {
          await connection.query('commit')
          connection.release()
        },
      }
    },
    close: () => pool.end(),
  }
}
