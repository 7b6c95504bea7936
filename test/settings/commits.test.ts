import knex from 'knex'
import mysql from 'mysql2/promise'
import { describe, expect, inject, it, onTestFinished } from 'vitest'
import { fromKnex } from '../../src/adapters/knex.ts'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { fromPg } from '../../src/adapters/pg.ts'
import { type Adapter, createLocks, type Locks } from '../../src/index.ts'
import { createPgPool } from '../adapters.ts'
import { createDatabase, query } from '../connect.ts'
import { freshName } from '../engines.ts'
import type { TestServer } from '../servers/index.ts'

const servers = inject('servers')

async function migrated(server: TestServer): Promise<string> {
  const database = await createDatabase(server)
  onTestFinished(() => database.drop())
  await query(database.url, 'create table notes (text varchar(100))')
  const locks = others(database.url)
  await locks.migrate()
  return database.url
}

function mysqlPool(url: string, connectionLimit = 1): mysql.Pool {
  const pool = mysql.createPool({ uri: url, connectionLimit })
  onTestFinished(() => pool.end())
  return pool
}

function instance<Tx>(adapter: Adapter<Tx>): Locks<Tx> {
  const locks = createLocks(adapter, { ttl: '5m', renew: false })
  onTestFinished(() => locks.close())
  return locks
}

/** Another process, as it were. */
function others(url: string): Locks<unknown> {
  if (new URL(url).protocol === 'mysql:') return instance(fromMysql2(mysqlPool(url)) as Adapter<unknown>)
  const pool = createPgPool({ connectionString: url, max: 1 })
  onTestFinished(() => pool.end())
  return instance(fromPg(pool) as Adapter<unknown>)
}

/** Held as everybody can see, and free when it is released: no transaction of anybody's has a part in it. */
async function expectCommitted(locks: Locks<never>, url: string): Promise<void> {
  const name = freshName()
  const lease = await locks.acquire(name)
  const other = others(url)
  expect(await other.inspect(name)).toMatchObject({ owner: lease.owner })
  expect(await other.tryAcquire(name)).toBeNull()
  expect(await lease.release()).toBe(true)
  await (await other.acquire(name, { wait: 0 })).release()
}

describe.each(servers.filter(({ engine }) => engine === 'mysql'))('without autocommit on $name', (server) => {
  const refused = { code: 'UNSUPPORTED', message: expect.stringContaining('autocommit') }

  it('locks are refused where no connection of the pool commits', async () => {
    const url = await migrated(server)
    const pool = mysqlPool(url, 3)
    pool.pool.on('connection', (connection) => connection.query('set autocommit = 0'))
    const locks = instance(fromMysql2(pool))
    const name = freshName()
    await expect(locks.tryAcquire(name)).rejects.toMatchObject(refused)
    await expect(locks.acquire(name)).rejects.toMatchObject(refused)
    expect(await query(url, 'select * from rowlock_locks')).toEqual([])
  })

  it('they are through an ORM, too', async () => {
    const url = await migrated(server)
    const db = knex({
      client: 'mysql2',
      connection: url,
      pool: {
        afterCreate: (connection: mysql.Connection, done: () => void) =>
          void connection.query('set autocommit = 0', done as never),
      },
    })
    onTestFinished(() => db.destroy())
    await expect(instance(fromKnex(db)).tryAcquire(freshName())).rejects.toMatchObject(refused)
  })

  it('a lease is committed although a connection of the pool was set so meanwhile', async () => {
    const url = await migrated(server)
    const pool = mysqlPool(url)
    const locks = instance(fromMysql2(pool))
    await (await locks.acquire(freshName())).release()
    await pool.query('set autocommit = 0')
    await expectCommitted(locks as Locks<never>, url)
  })

  it('a lease is committed although a connection came back with an open transaction, which is rolled back', async () => {
    const url = await migrated(server)
    const pool = mysqlPool(url)
    const locks = instance(fromMysql2(pool))
    await (await locks.acquire(freshName())).release()
    await pool.query('begin')
    await pool.query("insert into notes values ('left open')")
    await expectCommitted(locks as Locks<never>, url)
    expect(await query(url, 'select * from notes')).toEqual([])
  })

  it('through an ORM that tells, nothing is reported that may never be committed', async () => {
    const url = await migrated(server)
    const db = knex({ client: 'mysql2', connection: url, pool: { min: 0, max: 1 } })
    onTestFinished(() => db.destroy())
    const locks = instance(fromKnex(db))
    await (await locks.acquire(freshName())).release()
    await db.raw('begin')
    await expect(locks.tryAcquire(freshName())).rejects.toMatchObject({
      code: 'DATABASE',
      message: expect.stringContaining('may never be committed'),
    })
    await db.raw('rollback')
  })
})

describe.each(servers.filter(({ engine }) => engine === 'postgres'))('on $name', (server) => {
  it.each([
    ['an open transaction', "insert into notes values ('left open')"],
    ['an open transaction that has failed', 'select 1 / 0'],
  ])('a lease is committed although a connection came back with %s', async (_, text) => {
    const url = await migrated(server)
    const pool = createPgPool({ connectionString: url, max: 1 })
    onTestFinished(() => pool.end())
    const locks = instance(fromPg(pool))
    await (await locks.acquire(freshName())).release()
    const client = await pool.connect()
    await client.query('begin')
    await client.query(text).catch(() => undefined)
    client.release()
    await expectCommitted(locks as Locks<never>, url)
    expect(await query(url, 'select * from notes')).toEqual([])
  })
})

describe.each(servers.filter(({ engine }) => engine === 'postgres'))('with asynchronous commits on $name', (server) => {
  it('what a holder counts on is on the disk before it is told, and a release need not be', async () => {
    const url = await migrated(server)
    await query(url, `alter database "${new URL(url).pathname.slice(1)}" set synchronous_commit = off`)
    // Fires when a transaction commits.
    await query(
      url,
      `create table commits (setting text);
       create function note() returns trigger language plpgsql as $$ begin
         insert into commits values (current_setting('synchronous_commit'));
         return null;
       end $$;
       create constraint trigger note after insert or update on rowlock_locks deferrable initially deferred
         for each row execute function note()`,
    )
    const pool = createPgPool({ connectionString: url, max: 2 })
    onTestFinished(() => pool.end())
    const locks = instance(fromPg(pool))
    const other = others(url)
    const settingsOf = async <T>(verb: () => Promise<T>): Promise<[settings: unknown[], result: T]> => {
      await query(url, 'truncate commits')
      const result = await verb()
      return [(await query(url, 'select distinct setting from commits')).map(({ setting }) => setting), result]
    }
    const names = [freshName(), freshName()] as const
    const acquireAll = () => Promise.all(names.map((name) => locks.acquire(name)))

    for (const acquire of [acquireAll, acquireAll, async () => [await locks.acquire(names[0])]]) {
      const [granted, leases] = await settingsOf(acquire)
      expect(granted).toEqual(['on'])
      expect((await settingsOf(() => leases[0]!.extend('6m')))[0]).toEqual(['on'])
      const [released] = await settingsOf(() => Promise.all(leases.map((lease) => lease.release())))
      expect(released).toEqual(['off'])
    }

    const [granted, lease] = await settingsOf(() => locks.acquire(freshName()))
    expect(granted).toEqual(['on'])
    const next = other.acquire(lease.name)
    await expect.poll(async () => (await other.inspect(lease.name))?.waiters).toBe(1)
    const [handedOver] = await settingsOf(() => lease.release())
    expect(handedOver).toEqual(['on'])
    await (await next).release()
  })
})
