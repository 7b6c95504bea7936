import { Kysely, MysqlDialect, PostgresDialect } from 'kysely'
import { createPool } from 'mysql2'
import { afterAll, beforeAll, describe, expect, it, type TestContext, vi } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { fromKysely } from '../../src/adapters/kysely.ts'
import { fromPg } from '../../src/adapters/pg.ts'
import { createLocks, type LockEvent } from '../../src/index.ts'
import { connectors, createPgPool } from '../adapters.ts'
import { engines, freshName, type OpenEngine } from '../engines.ts'
import type { RunningServer } from '../servers/server.ts'
import { servedEngines } from './one-per-engine.ts'
import { startPgbouncer } from './pgbouncer.ts'
import { endProcesses, startWorker } from './processes.ts'

const bySession = { ttl: '1m', takeover: 'session' } as const
const byExpiry = { ttl: '1m', takeover: 'expiry' } as const
const advisoryLocks = `select 1 from pg_locks
  where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`
/** Long before the ttl. */
const soon = { timeout: 15_000 }

afterAll(endProcesses)

describe.each(servedEngines)('on $name', { concurrent: true, timeout: 90_000 }, (engine) => {
  const isPostgres = engine.engine === 'postgres'
  let open: OpenEngine

  beforeAll(async () => {
    open = await engine.open()
  })

  afterAll(() => open.close())

  const killSession = async (name: string) => {
    if (isPostgres) {
      await open.connected.sql(
        `select pg_terminate_backend(a.pid)
         from pg_locks as a
         join rowlock_locks as l on (a.classid::bigint << 32 | a.objid::bigint) = l.session
         where a.locktype = 'advisory' and l.name = '${name}'`,
      )
    } else {
      const [row] = await open.connected.sql(
        `select is_used_lock(session) as id from rowlock_locks where name = '${name}'`,
      )
      await open.connected.sql(`kill ${row?.id}`)
    }
  }

  it("with takeover: 'session' the lock of a killed process is taken over long before its ttl", async () => {
    const [holder, waiter] = await Promise.all([startWorker(engine, open.url), startWorker(engine, open.url)])
    const name = freshName()
    const held = await holder.call('acquire', name, bySession)
    const waiting = waiter.call('acquire', name, { ...bySession, wait: '15s' })
    await expect(waiter.call('acquire', name, { wait: '200ms' })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
    await holder.kill()
    expect((await waiting).token).toBeGreaterThan(held.token)
    expect(await waiter.call('eventTypes', name)).toContain('takeover')
  })

  it("with takeover: 'expiry' it is not", async () => {
    const [holder, locks] = await Promise.all([startWorker(engine, open.url), open.locks()])
    const name = freshName()
    await holder.call('acquire', name, byExpiry)
    await holder.kill()
    await expect(locks.acquire(name, { wait: '1s' })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
    expect(await locks.inspect(name)).not.toBe(null)
  })

  it('a lock whose session died is nobody’s, as inspect and list say', async () => {
    const [holder, locks] = await Promise.all([startWorker(engine, open.url), open.locks()])
    const name = freshName()
    await holder.call('acquire', name, bySession)
    expect(await locks.inspect(name)).not.toBe(null)
    expect(await locks.list({ prefix: name })).toHaveLength(1)
    await holder.kill()
    await vi.waitUntil(async () => (await locks.inspect(name)) === null, soon)
    expect(await locks.list({ prefix: name })).toEqual([])
    expect(await locks.tryAcquire(name)).not.toBe(null)
  })

  it('a transaction takes a lock whose session died', async () => {
    const [holder, connected] = await Promise.all([startWorker(engine, open.url), open.connect()])
    await using locks = createLocks(connected.adapter)
    const name = freshName()
    const held = await holder.call('acquire', name, bySession)
    await holder.kill()
    await vi.waitUntil(async () => (await locks.inspect(name)) === null, soon)
    const taken = await connected.transaction((tx) => locks.within(tx).tryAcquire(name))
    expect(taken?.token).toBeGreaterThan(held.token)
  })

  it('a stopped process keeps its session, so its lock is taken over at its expiry', async () => {
    const [holder, locks] = await Promise.all([startWorker(engine, open.url), open.locks()])
    const name = freshName()
    const held = await holder.call('acquire', name, { ...bySession, ttl: '1s' })
    await holder.pause()
    const next = await locks.acquire(name, { wait: '15s' })
    holder.resume()
    expect(next.token).toBeGreaterThan(held.token)
    expect(await holder.call('isHeld', held.id)).toBe(false)
  })

  it('a holder whose session is ended by the server learns so at once, and takes its next lock by another one', async () => {
    const locks = await open.locks()
    const events: LockEvent[] = []
    locks.on((event) => events.push(event))
    const lease = await locks.acquire(freshName(), bySession)
    const independent = await locks.acquire(freshName(), byExpiry)
    await killSession(lease.name)
    await vi.waitUntil(() => lease.signal.aborted, soon)
    expect(lease.signal.reason).toMatchObject({
      name: 'LockLostError',
      message: expect.stringContaining('session'),
      cause: expect.any(Error),
    })
    expect(events).toContainEqual(expect.objectContaining({ type: 'lost', name: lease.name }))
    expect(independent.isHeld()).toBe(true)

    const next = await locks.acquire(lease.name, { ...bySession, wait: '15s' })
    expect(next.token).toBeGreaterThan(lease.token)
    await killSession(next.name)
    await vi.waitUntil(() => next.signal.aborted, soon)
    await locks.close()
  })

  it('a holder that was stopped while its session was ended cannot commit under its guard', async () => {
    await open.connected.sql('create table counter (value int not null)')
    await open.connected.sql('insert into counter values (0)')
    const [holder, locks] = await Promise.all([startWorker(engine, open.url), open.locks()])
    const name = freshName()
    const held = await holder.call('acquire', name, bySession)
    await holder.pause()
    await killSession(name)
    const next = await locks.acquire(name, { wait: '15s' })
    expect(next.token).toBeGreaterThan(held.token)
    holder.resume()
    const late = holder.call('write', 'update counter set value = 1', held.id)
    await expect(late).rejects.toMatchObject({ code: 'LOCK_LOST' })
    expect(await open.connected.sql('select value from counter')).toEqual([{ value: 0 }])
    expect(next.isHeld()).toBe(true)
  })

  it('close ends the session', async () => {
    const own = await engine.open()
    const locks = await own.locks()
    await locks.acquire(freshName(), bySession)
    const sessions = async () => {
      const text = isPostgres
        ? advisoryLocks
        : 'select 1 from rowlock_locks where case when session is not null then is_used_lock(session) is not null end'
      return (await own.connected.sql(text)).length
    }
    expect(await sessions()).toBe(1)
    await locks.close()
    await vi.waitUntil(async () => (await sessions()) === 0, soon)
    await own.close()
  })

  it('a pool of one connection is enough for it', async () => {
    const locks = await open.locks({ poolSize: 1 })
    expect(await (await locks.acquire(freshName(), bySession)).release()).toBe(true)
  })
})

it.each(servedEngines)(
  "takeover: 'session' works with Kysely and an adapter for sessions, on $name",
  async (engine) => {
    const open = await engine.open()
    const dialect =
      engine.engine === 'postgres'
        ? new PostgresDialect({ pool: createPgPool({ connectionString: open.url }) })
        : new MysqlDialect({ pool: createPool({ uri: open.url }) })
    const db = new Kysely<unknown>({ dialect })
    const locks = createLocks(fromKysely(db, { sessions: open.connected.adapter as SqlAdapter<never> }))
    const others = await open.locks()
    const lease = await locks.acquire(freshName(), bySession)
    expect(await others.tryAcquire(lease.name)).toBe(null)
    expect(await lease.release()).toBe(true)
    await locks.close()
    await db.destroy()
    await open.close()
  },
)

it.each(engines().filter(({ sessions }) => !sessions))("$name refuses takeover: 'session'", async (engine) => {
  const open = await engine.open()
  const locks = await open.locks()
  const unsupported = {
    name: 'LockError',
    code: 'UNSUPPORTED',
    message: expect.stringContaining("takeover: 'session'"),
  }
  await expect(locks.acquire(freshName(), bySession)).rejects.toMatchObject(unsupported)
  await expect(locks.tryAcquire(freshName(), bySession)).rejects.toMatchObject(unsupported)
  expect(await locks.list()).toEqual([])
  await open.close()
})

const postgres = servedEngines.find(({ server }) => server?.name === 'postgres18')

describe.runIf(postgres)('behind PgBouncer, which pools transactions', () => {
  let open: OpenEngine
  let bouncer: RunningServer

  beforeAll(async () => {
    open = await postgres!.open()
    bouncer = await startPgbouncer(open.url)
  }, 120_000)

  afterAll(async () => {
    await bouncer.stop()
    await open.close()
  })

  const behind = async ({ onTestFinished }: TestContext) => {
    const connected = connectors.pg(bouncer.url)
    const locks = createLocks(connected.adapter)
    onTestFinished(async () => {
      await locks.close()
      await connected.close()
    })
    return { connected, locks }
  }

  it("takeover: 'session' is refused with an error that names the pooler, and leaves no session lock behind", async (context) => {
    const { locks } = await behind(context)
    for (let time = 0; time < 3; time++) {
      await expect(locks.acquire(freshName(), bySession)).rejects.toMatchObject({
        name: 'LockError',
        code: 'UNSUPPORTED',
        message: expect.stringContaining('PgBouncer'),
      })
    }
    expect(await open.connected.sql(advisoryLocks)).toEqual([])
  })

  it("takeover: 'session' works with a direct pool for sessions", async (context) => {
    const { locks: others } = await behind(context)
    const pooled = createPgPool({ connectionString: bouncer.url })
    const direct = createPgPool({ connectionString: open.url, max: 1 })
    const locks = createLocks(fromPg(pooled, { sessions: direct }))
    const lease = await locks.acquire(freshName(), bySession)
    expect(await others.tryAcquire(lease.name)).toBe(null)
    await lease.release()
    await locks.close()
    await Promise.all([pooled.end(), direct.end()])
  })

  it('leases, waiting and guards work', async (context) => {
    await open.connected.sql('create table counter (value int not null)')
    await open.connected.sql('insert into counter values (0)')
    const users = await Promise.all(Array.from({ length: 4 }, () => behind(context)))
    const name = freshName()
    const increments = users.flatMap(({ connected, locks }) =>
      Array.from({ length: 10 }, () =>
        locks.run(name, { wait: '20s' }, async (lease) => {
          const [row] = await connected.sql('select value from counter')
          await connected.transaction(async (tx) => {
            await lease.guard(tx)
            await connected.sql(`update counter set value = ${Number(row?.value) + 1}`, tx)
          })
        }),
      ),
    )
    await Promise.all(increments)
    expect(await open.connected.sql('select value from counter')).toEqual([{ value: increments.length }])

    const [{ connected, locks }, { locks: others }] = users as [(typeof users)[0], (typeof users)[0]]
    const lease = await locks.acquire(name)
    await others.forceRelease(name)
    const late = connected.transaction(async (tx) => lease.guard(tx))
    await expect(late).rejects.toMatchObject({ code: 'LOCK_LOST' })
  })

  it('leases are renewed and outlive their ttl', async (context) => {
    const { locks } = await behind(context)
    let renewals = 0
    locks.on(({ type }) => type === 'renewed' && renewals++)
    const lease = await locks.acquire(freshName(), { ttl: '1s' })
    await vi.waitUntil(() => renewals > 3, { timeout: 10_000 })
    expect(await lease.release()).toBe(true)
  })
})
