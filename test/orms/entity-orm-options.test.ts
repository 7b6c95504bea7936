import { AsyncLocalStorage } from 'node:async_hooks'
import { setTimeout } from 'node:timers/promises'
import type { MikroORM } from '@mikro-orm/postgresql'
import { PrismaMariaDb } from '@prisma/adapter-mariadb'
import { PrismaPg } from '@prisma/adapter-pg'
import mysql from 'mysql2/promise'
import { Sequelize } from 'sequelize'
import { DataSource } from 'typeorm'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import type { SessionOptions, SqlAdapter } from '../../src/adapters/adapter.ts'
import { fromMikroOrm } from '../../src/adapters/mikro-orm.ts'
import { fromMysql2 } from '../../src/adapters/mysql2.ts'
import { fromPg } from '../../src/adapters/pg.ts'
import { fromPrisma, type PrismaClient, type PrismaTransaction } from '../../src/adapters/prisma.ts'
import { fromSequelize } from '../../src/adapters/sequelize.ts'
import { fromTypeorm } from '../../src/adapters/typeorm.ts'
import { type Adapter, createLocks, type Lease, LockLostError } from '../../src/index.ts'
import { createPgPool } from '../adapters.ts'
import { query } from '../connect.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { ormEngines } from './connectors.ts'
import type { OrmConnected } from './engines.ts'
import { generatedClient } from './prisma/generate.ts'

/** What users set up in these libraries, and what must not disturb rowlock. */
const orms = ['Prisma', 'TypeORM', 'Sequelize', 'MikroORM'] as const
const adapters: Record<(typeof orms)[number], (db: never, options: SessionOptions) => SqlAdapter<never>> = {
  Prisma: fromPrisma as never,
  TypeORM: fromTypeorm as never,
  Sequelize: fromSequelize as never,
  MikroORM: fromMikroOrm as never,
}

for (const orm of orms) {
  for (const engine of ormEngines(orm)) {
    describe(engine.name, () => {
      let opened: OpenEngine
      let connected: OrmConnected
      let adapter: SqlAdapter<unknown>
      const closing: (() => Promise<unknown>)[] = []

      beforeAll(async () => {
        opened = await engine.open()
        connected = opened.connected as unknown as OrmConnected
        adapter = connected.adapter as SqlAdapter<unknown>
        await connected.sql('create table ledger (entry varchar(100) not null)')
      })
      afterEach(async () => {
        for (const close of closing.splice(0).reverse()) await close()
      })
      afterAll(() => opened.close())

      const locksOn = (...[given, options]: Parameters<typeof createLocks<unknown>>) => {
        const locks = createLocks(given, options)
        closing.push(() => locks.close())
        return locks
      }

      it('an error of the database reaches rowlock, and the caller, as the driver would tell it', async () => {
        const missing = { text: 'select * from missing', values: [] }
        const told = {
          postgres: { code: '42P01', message: 'relation "missing" does not exist' },
          mysql: { errno: 1146, message: expect.stringContaining("missing' doesn't exist") },
          sqlite: { message: expect.stringMatching(/\bno such table: missing$/) },
        }[adapter.engine]
        await expect(adapter.query(missing)).rejects.toMatchObject(told)
        const lease = await locksOn(connected.adapter).acquire(freshName())
        await expect(connected.transaction((tx) => lease.guarded(tx, missing))).rejects.toMatchObject(told)
      })

      if (engine.engine === 'postgres') {
        it("an error in a caller's guarded statement is not taken for the guard's", async () => {
          const lease = await locksOn(connected.adapter).acquire(freshName())
          const cast = { text: "select ('x' || $1)::int as number", values: ['y'] }
          const failed = connected.transaction((tx) => lease.guarded(tx, cast))
          await expect(failed).rejects.toMatchObject({ code: '22P02' })
          await expect(failed).rejects.not.toBeInstanceOf(LockLostError)
        })

        it('question marks and repeated parameters of a guarded query are left alone', async () => {
          const lease = await locksOn(connected.adapter).acquire(freshName())
          const text = `select '{"a":1}'::jsonb ? $2::text as found, $1::text as first, $1::text || '?' as again`
          const rows = await connected.transaction((tx) => lease.guarded(tx, { text, values: ['x', 'a'] }))
          expect(rows).toEqual([{ found: true, first: 'x', again: 'x?' }])
        })
      }

      if (engine.server !== undefined) {
        it('a connection that the server ends is a failure of the connection, and soon there is another', async () => {
          let cut = false
          const breaking: SqlAdapter<unknown> = {
            ...adapter,
            async query(statement) {
              if (cut) return adapter.query(statement)
              cut = true
              const sleep = engine.engine === 'postgres' ? 'select 1 from pg_sleep(29)' : 'select sleep(29)'
              const answer = adapter.query({ text: sleep, values: [] })
              answer.catch(() => undefined)
              await vi.waitFor(() => endSession(opened.url, sleep), { timeout: 10_000, interval: 100 })
              return answer
            },
          }
          const locks = locksOn(breaking)
          await expect(locks.purge({ idleFor: '1h' })).rejects.toMatchObject({
            code: 'DATABASE',
            failure: 'connection',
          })
          // Some of these pools give the dead connection once more, until they hear that its socket was closed.
          await vi.waitFor(async () => expect(await locks.purge({ idleFor: '1h' })).toBe(0))
        })

        it("takeover: 'session' works with a pool of the driver beside the ORM", async () => {
          const pool = engine.engine === 'postgres' ? createPgPool({ connectionString: opened.url }) : undefined
          const pool2 = engine.engine === 'mysql' ? mysql.createPool({ uri: opened.url }) : undefined
          closing.push(async () => (pool ?? pool2)?.end())
          const sessions = pool ? fromPg(pool) : fromMysql2(pool2!)
          const locks = locksOn(adapters[orm](connected.db as never, { sessions }) as Adapter<unknown>)
          const lease = await locks.acquire(freshName(), { takeover: 'session' })
          expect(await lease.release()).toBe(true)
          const without = locksOn(connected.adapter).acquire(freshName(), { takeover: 'session' })
          // The others open a connection beside their pools.
          if (orm === 'Prisma') await expect(without).rejects.toMatchObject({ code: 'UNSUPPORTED' })
          else expect(await (await without).release()).toBe(true)
        })
      }

      if (engine.engine === 'sqlite') {
        it("what rowlock does beside the ORM's open transaction is not rolled back with it", async () => {
          const locks = locksOn(connected.adapter, { ttl: '20s', wait: '10s' })
          const others = await opened.locks()
          const name = freshName()
          const acquiring: Promise<Lease<unknown>>[] = []
          const rolledBack = connected.transaction(async (tx) => {
            await connected.sql(`insert into ledger (entry) values ('${name}')`, tx)
            acquiring.push(locks.acquire(name))
            await setTimeout(200)
            throw new Error('undo')
          })
          await expect(rolledBack).rejects.toThrow('undo')
          const lease = await acquiring[0]!
          expect(await others.inspect(name)).toMatchObject({ token: lease.token })
          expect(await connected.sql(`select entry from ledger where entry = '${name}'`)).toEqual([])
          expect(await lease.release()).toBe(true)
        })

        it('a file that somebody else writes to is waited for', async () => {
          const elsewhere = await opened.connect()
          const write = { text: 'update rowlock_locks set holder = holder', values: [] }
          const acquiring: Promise<Lease<unknown>>[] = []
          await elsewhere.transaction(async (tx) => {
            await elsewhere.sql(`insert into ledger (entry) values ('x')`, tx)
            await expect(adapter.query(write)).rejects.toMatchObject({ code: 'SQLITE_BUSY' })
            acquiring.push(locksOn(connected.adapter, { wait: '10s' }).acquire(freshName()))
            await setTimeout(200)
          })
          expect(await (await acquiring[0]!).release()).toBe(true)
        })
      }
    })
  }
}

describe('Prisma', () => {
  for (const [provider, serverName] of [
    ['postgresql', 'postgres18'],
    ['mysql', 'mysql'],
  ] as const) {
    const engine = ormEngines('Prisma').find(({ server }) => server?.name === serverName)

    it.runIf(engine)(
      `says of a transaction that outlived its timeout that it was rolled back, on ${provider}`,
      async () => {
        const opened = await engine!.open()
        const { db: prisma, adapter } = opened.connected as unknown as OrmConnected & { db: PrismaClient }
        const locks = createLocks(adapter)
        const lease = await locks.acquire(freshName())
        const uses = [
          (tx: PrismaTransaction) => lease.guard(tx),
          (tx: PrismaTransaction) => lease.guarded(tx, { text: 'select 1', values: [] }),
        ]
        for (const use of uses) {
          const late = prisma.$transaction(
            async (tx) => {
              await setTimeout(300)
              await use(tx)
            },
            { timeout: 100 },
          )
          await expect(late).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' })
        }
        expect(await lease.release()).toBe(true)

        // With extensions it is another type of client.
        const { $extends } = prisma as unknown as { $extends(extension: object): PrismaClient }
        const extended = $extends.call(prisma, { client: { hello: () => 'hello' } })
        const viaExtended = createLocks(fromPrisma(extended))
        const hold = await extended.$transaction((tx) => viaExtended.within(tx).acquire(freshName()))
        expect(hold.token).toBeGreaterThan(0n)
        await viaExtended.close()
        await locks.close()
        await opened.close()
      },
    )
  }

  it('says that no server answers', async () => {
    const { PrismaClient: Postgres } = await generatedClient('postgresql')
    const { PrismaClient: MySql } = await generatedClient('mysql')
    const host = { host: '127.0.0.1', port: 1, user: 'nobody', database: 'nothing' }
    const clients = [
      new Postgres({ adapter: new PrismaPg(host) }),
      new MySql({ adapter: new PrismaMariaDb({ ...host, connectTimeout: 500, acquireTimeout: 500 }) }),
    ]
    for (const prisma of clients as (PrismaClient & { $disconnect(): Promise<void> })[]) {
      const locks = createLocks(fromPrisma(prisma), { statementTimeout: '5s' })
      // The driver mariadb says that its pool had no connection in time.
      const told = { code: 'DATABASE', failure: expect.stringMatching(/^(connection|unavailable)$/) }
      await expect(locks.inspect('x')).rejects.toMatchObject(told)
      await expect(locks.purge({ idleFor: '1h' })).rejects.toMatchObject(told)
      await locks.close()
      await prisma.$disconnect()
    }
  })
})

describe('Sequelize', () => {
  it.each(['postgres', 'mysql', 'mariadb'])('says that no server answers, by its dialect %s', async (dialect) => {
    const sequelize = new Sequelize(`${dialect}://nobody@127.0.0.1:1/nothing`, { logging: false })
    const locks = createLocks(fromSequelize(sequelize), { statementTimeout: '1s' })
    await expect(locks.inspect('x')).rejects.toMatchObject({ code: 'DATABASE', failure: 'connection' })
    await locks.close()
    await sequelize.close()
  })

  const engine = ormEngines('Sequelize').find(({ server }) => server?.name === 'postgres18')

  it.runIf(engine)(
    'may keep its transaction in AsyncLocalStorage: leases stay out of it, guards may be given it',
    async () => {
      const storage = new AsyncLocalStorage<Map<string, unknown>>()
      Sequelize.useCLS({
        get: (key: string) => storage.getStore()?.get(key),
        set: (key: string, value: unknown) => storage.getStore()?.set(key, value),
        run: (use: () => unknown) => storage.run(new Map(), use),
        bind: (use: unknown) => use,
      })
      try {
        const opened = await engine!.open()
        const sequelize = (opened.connected as unknown as OrmConnected).db as Sequelize
        const locks = createLocks(fromSequelize(sequelize))
        const name = freshName()
        const rolledBack = sequelize.transaction(async (transaction) => {
          const lease = await locks.acquire(name)
          await lease.guard(() => storage.getStore()?.get('transaction') as typeof transaction)
          throw new Error('undo')
        })
        await expect(rolledBack).rejects.toThrow('undo')
        expect(await locks.inspect(name)).not.toBeNull()
        await locks.close()
        await opened.close()
      } finally {
        Reflect.deleteProperty(Sequelize, '_cls')
      }
    },
  )
})

describe('MikroORM', () => {
  const engine = ormEngines('MikroORM').find(({ server }) => server?.name === 'postgres18')

  it.runIf(engine)('finds its open transaction from its global EntityManager, which guards may be given', async () => {
    const opened = await engine!.open()
    const orm = (opened.connected as unknown as OrmConnected).db as MikroORM
    const locks = createLocks(fromMikroOrm(orm))
    const { em } = orm
    const name = freshName()
    const rolledBack = em.transactional(async () => {
      await locks.within(em).acquire(name)
      expect(await locks.tryAcquire(name)).toBeNull()
      throw new Error('undo')
    })
    await expect(rolledBack).rejects.toThrow('undo')
    await expect(locks.within(em).tryAcquire(name)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(await (await locks.acquire(name, { wait: 0 })).release()).toBe(true)
    await locks.close()
    await opened.close()
  })
})

it('what is not of the ORM is refused by name', async () => {
  for (const wrong of [undefined, null, {}, 'url']) {
    expect(() => fromPrisma(wrong as never)).toThrow('fromPrisma takes')
    expect(() => fromTypeorm(wrong as never)).toThrow('fromTypeorm takes')
    expect(() => fromSequelize(wrong as never)).toThrow('fromSequelize takes')
    expect(() => fromMikroOrm(wrong as never)).toThrow('fromMikroOrm takes')
  }
  const sqljs = { options: { type: 'sqljs' }, createQueryRunner: () => undefined }
  expect(() => fromTypeorm(sqljs as never)).toThrow('sqljs')
  const notYet = createLocks(fromTypeorm(new DataSource({ type: 'better-sqlite3', database: ':memory:' })))
  await expect(notYet.inspect('x')).rejects.toMatchObject({ message: expect.stringContaining('initialize') })
  await notYet.close()
})

/** Ends the session that runs this statement; throws if there is none yet. */
async function endSession(url: string, statement: string): Promise<void> {
  const isPostgres = url.startsWith('postgres')
  const sessions = await query(
    url,
    isPostgres
      ? `select pid as id from pg_stat_activity where query = '${statement}' and datname = current_database()`
      : `select id as id from information_schema.processlist where info = '${statement}' and db = database()`,
  )
  const id = Number(sessions[0]?.id)
  if (!(id > 0)) throw new Error('not there yet')
  await query(url, isPostgres ? `select pg_terminate_backend(${id})` : `kill ${id}`)
}
