import { randomBytes } from 'node:crypto'
import knex from 'knex'
import mysql from 'mysql2/promise'
import type pg from 'pg'
import { Sequelize } from 'sequelize'
import { describe, expect, inject, it, onTestFinished } from 'vitest'
import { fromKnex } from '../../src/adapters/knex.ts'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { fromPg } from '../../src/adapters/pg.ts'
import { fromSequelize } from '../../src/adapters/sequelize.ts'
import { type Adapter, createLocks, type InstanceOptions, type Locks } from '../../src/index.ts'
import { createPgPool } from '../adapters.ts'
import { connect, createDatabase, query } from '../connect.ts'
import { eventually, tap } from '../contract/harness.ts'
import { freshName } from '../engines.ts'
import { startServer, type TestServer } from '../servers/index.ts'

/** A database that for a while refuses, or cannot be asked, without that anything is lost. */
interface Obstacle {
  readonly adapter: Adapter<unknown>
  /** Who is not hindered. */
  readonly url: string
  /** Resolves with what ends it. */
  begin(): Promise<() => Promise<unknown>>
  readonly says: RegExp
}

/** Long enough that no lease of these tests runs out by itself. */
const TTL = '5m'

const obstacles: Record<string, { of: TestServer['engine']; raise(server: TestServer): Promise<Obstacle> }> = {
  'a session that may only read': {
    of: 'mysql',
    async raise(server) {
      const { url, user } = await login(server)
      const pool = mysql.createPool({ uri: user, connectionLimit: 1 })
      onTestFinished(() => pool.end())
      const set = (mode: string) => pool.query(`set session transaction read ${mode}`)
      return {
        adapter: fromMysql2(pool) as Adapter<unknown>,
        url,
        says: /takes no writes.*(read only|READ ONLY)/,
        async begin() {
          await set('only')
          return () => set('write')
        },
      }
    },
  },
  'sessions that may only read': {
    of: 'postgres',
    async raise(server) {
      const { url, user, name } = await login(server)
      const pool = pgPool(user, { max: 1 })
      const set = async (readOnly: boolean) => {
        await query(url, `alter role ${name} set default_transaction_read_only = ${readOnly}`)
        await endSessions(url, name)
      }
      return {
        adapter: fromPg(pool) as Adapter<unknown>,
        url,
        says: /takes no writes.*read-only transaction/,
        async begin() {
          await set(true)
          return () => set(false)
        },
      }
    },
  },
  'a user with as many connections as it may have': {
    of: 'postgres',
    async raise(server) {
      const { url, user, name } = await login(server)
      await query(url, `alter role ${name} connection limit 1`)
      const pool = pgPool(user, { max: 1 })
      return {
        adapter: fromPg(pool) as Adapter<unknown>,
        url,
        says: /no room at the moment.*too many connections/,
        begin: () => occupy(url, user, name),
      }
    },
  },
  'a user with as many connections as it may have (MySQL)': {
    of: 'mysql',
    async raise(server) {
      const { url, user, name } = await login(server, 'with max_user_connections 1')
      const pool = mysql.createPool({ uri: user, connectionLimit: 1 })
      onTestFinished(() => pool.end())
      return {
        adapter: fromMysql2(pool) as Adapter<unknown>,
        url,
        says: /no room at the moment.*max_user_connections/,
        begin: () => occupy(url, user, name),
      }
    },
  },
  'a pool of pg with no connection in time': {
    of: 'postgres',
    async raise(server) {
      const { url, user } = await login(server)
      const pool = pgPool(user, { max: 1, connectionTimeoutMillis: 30 })
      return {
        adapter: fromPg(pool) as Adapter<unknown>,
        url,
        says: /no room at the moment.*timeout exceeded/,
        async begin() {
          const client = await pool.connect()
          return async () => client.release()
        },
      }
    },
  },
  'a pool of mysql2 with no connection': {
    of: 'mysql',
    async raise(server) {
      const { url, user } = await login(server)
      const pool = mysql.createPool({ uri: user, connectionLimit: 1, waitForConnections: false })
      onTestFinished(() => pool.end())
      return {
        adapter: fromMysql2(pool) as Adapter<unknown>,
        url,
        says: /no room at the moment.*No connections available/,
        async begin() {
          const connection = await pool.getConnection()
          return async () => connection.release()
        },
      }
    },
  },
  'a pool of Knex with no connection in time': {
    of: 'postgres',
    async raise(server) {
      const { url, user } = await login(server)
      const db = knex({ client: 'pg', connection: user, pool: { min: 0, max: 1 }, acquireConnectionTimeout: 30 })
      onTestFinished(() => db.destroy())
      return {
        adapter: fromKnex(db) as Adapter<unknown>,
        url,
        says: /no room at the moment.*Timeout acquiring a connection/,
        async begin() {
          const connection = await db.client.acquireConnection()
          return () => db.client.releaseConnection(connection)
        },
      }
    },
  },
  'a pool of Sequelize with no connection in time': {
    of: 'mysql',
    async raise(server) {
      const { url, user } = await login(server)
      const db = new Sequelize(user, { dialect: 'mysql', logging: false, pool: { max: 1, acquire: 30 } })
      onTestFinished(() => db.close())
      return {
        adapter: fromSequelize(db as never) as Adapter<unknown>,
        url,
        says: /no room at the moment/,
        async begin() {
          const transaction = await db.transaction()
          return () => transaction.rollback()
        },
      }
    },
  },
}

for (const server of inject('servers')) {
  const met = Object.entries(obstacles).filter(([, { of }]) => of === server.engine)

  describe.each(met)(`on ${server.name}, with %s`, { timeout: 60_000 }, (_, { raise }) => {
    it('a lock is not had, for a reason that is told, and a caller who waits for long enough has it', async () => {
      const { adapter, says, begin } = await raise(server)
      const locks = instance(adapter)
      await (await locks.acquire(freshName())).release()
      const end = await begin()
      const error = await locks.tryAcquire(freshName()).catch((thrown: unknown) => thrown)
      const waiting = locks.acquire(freshName(), { wait: '50s' })
      await end()
      expect(error).toMatchObject({ code: 'DATABASE', failure: 'unavailable', message: expect.stringMatching(says) })
      await (await waiting).release()
    })

    it('a release is repeated until the lock is free', async () => {
      const { adapter, url, begin } = await raise(server)
      const { locks, failures } = counted(adapter)
      const lease = await locks.acquire(freshName())
      const end = await begin()
      const released = lease.release()
      await eventually(() => expect(failures()).toBeGreaterThan(3))
      await end()
      expect(await released).toBe(true)
      expect(await ownerOf(url, lease.name)).toBeNull()
    })

    it('close() waits for a release that is repeated', async () => {
      const { adapter, url, begin } = await raise(server)
      const { locks, failures } = counted(adapter)
      const lease = await locks.acquire(freshName())
      const end = await begin()
      const closing = locks.close()
      await eventually(() => expect(failures()).toBeGreaterThan(3))
      await end()
      await closing
      expect(await ownerOf(url, lease.name)).toBeNull()
    })

    it('a release that nobody waits for any more goes on until the lock is free', async () => {
      const { adapter, url, begin } = await raise(server)
      const { locks, failures } = counted(adapter, { statementTimeout: '300ms' })
      const lease = await locks.acquire(freshName())
      const end = await begin()
      await expect(lease.release()).rejects.toMatchObject({ code: 'DATABASE' })
      const before = failures()
      await eventually(() => expect(failures()).toBeGreaterThan(before))
      await end()
      await eventually(async () => expect(await ownerOf(url, lease.name)).toBeNull())
      expect(await lease.release()).toBe(true)
    })
  })
}

describe.each(inject('servers').filter(({ engine, pid }) => engine === 'mysql' && pid !== null))(
  'while $name is read-only, as when it fails over',
  { timeout: 90_000 },
  (kind) => {
    it('says so, and a release is repeated', async () => {
      const server = await startServer(kind.name)
      onTestFinished(() => server.stop())
      const { url, user } = await login(server)
      const pool = mysql.createPool({ uri: user, connectionLimit: 2 })
      onTestFinished(() => pool.end())
      const { locks, failures } = counted(fromMysql2(pool) as Adapter<unknown>)
      const lease = await locks.acquire(freshName())
      await query(url, 'set global read_only = 1')
      await expect(locks.tryAcquire(freshName())).rejects.toMatchObject({
        failure: 'unavailable',
        message: expect.stringMatching(/takes no writes.*read.only/),
      })
      const before = failures()
      const released = lease.release()
      await eventually(() => expect(failures()).toBeGreaterThan(before + 3))
      await query(url, 'set global read_only = 0')
      expect(await released).toBe(true)
    })
  },
)

describe.each(inject('servers'))('in a transaction that may only read on $name', (server) => {
  it('locks and guards say so', async () => {
    const { user } = await login(server)
    const begin = server.engine === 'postgres' ? 'begin read only' : 'start transaction read only'
    const failing = { code: 'DATABASE', message: expect.stringMatching(/takes no writes.*READ WRITE/s) }
    if (server.engine === 'postgres') {
      const pool = pgPool(user, { max: 3 })
      const locks = instance(fromPg(pool))
      const lease = await locks.acquire(freshName())
      for (const use of [
        (tx: pg.PoolClient) => locks.within(tx).acquire(freshName()),
        (tx: pg.PoolClient) => lease.guard(tx),
      ]) {
        const client = await pool.connect()
        await client.query(begin)
        await expect(use(client)).rejects.toMatchObject(failing)
        await client.query('rollback')
        client.release()
      }
      return
    }
    const pool = mysql.createPool({ uri: user, connectionLimit: 3 })
    onTestFinished(() => pool.end())
    const locks = instance(fromMysql2(pool))
    const lease = await locks.acquire(freshName())
    const connection = await pool.getConnection()
    await connection.query(begin)
    await expect(locks.within(connection).acquire(freshName())).rejects.toMatchObject(failing)
    await expect(lease.guard(connection)).rejects.toMatchObject(failing)
    await connection.rollback()
    connection.release()
  })
})

/** A user of its own with a database that has rowlock's tables; both are gone when the test is over. */
async function login(server: Pick<TestServer, 'engine' | 'url'>, options = '') {
  const database = await createDatabase(server)
  const name = `rowlock_${randomBytes(6).toString('hex')}`
  const isPostgres = server.engine === 'postgres'
  const databaseName = new URL(database.url).pathname.slice(1)
  const admin = await connect(database.url)
  if (isPostgres) {
    await admin.query(`create role ${name} login password 'secret'`)
    await admin.query(`grant all on schema public to ${name}`)
  } else {
    await admin.query(`create user ${name}@'%' identified by 'secret' ${options}`)
    await admin.query(`grant all on ${databaseName}.* to ${name}@'%'`)
  }
  await admin.close()
  const user = new URL(database.url)
  user.username = name
  user.password = 'secret'
  onTestFinished(async () => {
    await database.drop()
    await query(server.url, isPostgres ? `drop role ${name}` : `drop user ${name}`)
  })
  if (isPostgres) {
    const pool = pgPool(user.href, { max: 1 })
    await createLocks(fromPg(pool)).migrate()
    await pool.end()
  } else {
    const pool = mysql.createPool({ uri: user.href })
    await createLocks(fromMysql2(pool)).migrate()
    await pool.end()
  }
  return { url: database.url, user: user.href, name }
}

/** Ends the sessions of `name`, and has as many as that user may have, until the function that it resolves with is called. */
async function occupy(url: string, user: string, name: string): Promise<() => Promise<void>> {
  const other = await eventually(async () => {
    await endSessions(url, name)
    return connect(user)
  })
  return () => other.close()
}

async function endSessions(url: string, name: string): Promise<void> {
  if (new URL(url).protocol !== 'mysql:') {
    await query(url, `select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '${name}'`)
    return
  }
  const sessions = await query(url, `select id from information_schema.processlist where user = '${name}'`)
  for (const { id, ID } of sessions) await query(url, `kill ${id ?? ID}`).catch(() => undefined)
}

async function ownerOf(url: string, name: string): Promise<unknown> {
  return (await query(url, `select owner from rowlock_locks where name = '${name}'`))[0]?.owner
}

function pgPool(url: string, options: pg.PoolConfig): pg.Pool {
  const pool = createPgPool({ connectionString: url, ...options })
  onTestFinished(async () => {
    if (!pool.ended) await pool.end()
  })
  return pool
}

/** On the pool alone: what is in its way, a connection of rowlock's own does not meet. */
function instance<Tx>(adapter: Adapter<Tx>, options: InstanceOptions = {}): Locks<Tx> {
  const settings = { ttl: TTL, renew: false, statementTimeout: '20s', ownConnection: false } as const
  const locks = createLocks(adapter, { ...settings, ...options })
  onTestFinished(() => locks.close())
  return locks
}

/** And how many of its statements have failed. */
function counted(adapter: Adapter<unknown>, options: InstanceOptions = {}) {
  const tapped = tap(adapter)
  let failures = 0
  tapped.intercept = async (forward) => {
    try {
      return await forward()
    } catch (error) {
      failures++
      throw error
    }
  }
  return { locks: instance(tapped.adapter, options), failures: () => failures }
}
