import { describe, expect, it, type TestContext, vi } from 'vitest'
import { createLocks, type LockEvent, type Locks } from '../../src/index.ts'
import { type Connected, connectors } from '../adapters.ts'
import { freshName, type TestEngine } from '../engines.ts'
import { startServer } from '../servers/index.ts'
import { startProxy, type TcpProxy } from '../tcp-proxy.ts'
import { enginesOnce, servedEngines } from './one-per-engine.ts'

/** What `statementTimeout` and `wait` of these tests allow, several times over. */
const BOUND_MS = 20_000

const isDatabaseError = { name: 'DatabaseError', code: 'DATABASE' }

interface Setting {
  readonly proxy: TcpProxy
  /** Uses the database through the proxy. */
  readonly locks: Locks<unknown>
  readonly connected: Connected
  /** The types of its events so far. */
  types(): LockEvent['type'][]
}

async function setUp(engine: TestEngine, { onTestFinished }: TestContext): Promise<Setting> {
  const open = await engine.open()
  const proxy = await startProxy(open.url)
  const connected = await connectors[engine.connector](proxy.through(open.url) as never)
  const locks = createLocks(connected.adapter, { wait: '200ms', statementTimeout: '500ms' })
  const events: LockEvent[] = []
  locks.on((event) => events.push(event))
  onTestFinished(async () => {
    await locks.close()
    await proxy.close()
    // Some drivers complain about connections that broke.
    await connected.close().catch(() => undefined)
    await open.close()
  })
  return { proxy, locks, connected, types: () => events.map(({ type }) => type) }
}

async function expectFailures(locks: Locks<unknown>): Promise<void> {
  const started = performance.now()
  await Promise.all([
    expect(locks.acquire(freshName())).rejects.toMatchObject(isDatabaseError),
    expect(locks.tryAcquire(freshName())).rejects.toMatchObject(isDatabaseError),
    expect(locks.run(freshName(), {}, () => 'never')).rejects.toMatchObject(isDatabaseError),
    expect(locks.tryRun(freshName(), {}, () => 'never')).rejects.toMatchObject(isDatabaseError),
    expect(locks.inspect(freshName())).rejects.toMatchObject(isDatabaseError),
    expect(locks.list()).rejects.toMatchObject(isDatabaseError),
    expect(locks.forceRelease(freshName())).rejects.toMatchObject(isDatabaseError),
    expect(locks.purge({ idleFor: 0 })).rejects.toMatchObject(isDatabaseError),
  ])
  expect(performance.now() - started).toBeLessThan(BOUND_MS)
}

describe.each(servedEngines)('on $name', { concurrent: true, timeout: 90_000 }, (engine) => {
  it('every verb fails as DATABASE, soon, while nobody listens at the port', async (context) => {
    const { proxy, locks } = await setUp(engine, context)
    await proxy.close()
    await expectFailures(locks)
  })

  it('every verb fails as DATABASE, soon, while the network swallows everything', async (context) => {
    const { proxy, locks, connected } = await setUp(engine, context)
    // One connection is open already, others are not.
    await locks.inspect(freshName())
    proxy.blackhole()
    await expectFailures(locks)
    proxy.restore()
    // What arrives late leaves no ghost.
    await vi.waitUntil(async () => (await connected.sql('select 1 from rowlock_locks')).length > 0, { timeout: 20_000 })
    await vi.waitUntil(async () => (await locks.list()).length === 0, { timeout: 20_000 })
  })

  it('a waiter whose wait is longer than the outage gets its lock', async (context) => {
    const { proxy, locks } = await setUp(engine, context)
    const name = freshName()
    const held = await locks.acquire(name, { ttl: '1m' })
    const waiting = locks.acquire(name, { wait: '20s' })
    await vi.waitUntil(async () => (await locks.inspect(name))?.waiters === 1, { timeout: 20_000 })
    proxy.disconnect()
    proxy.blackhole()
    await expect(locks.inspect(name)).rejects.toMatchObject(isDatabaseError)
    proxy.restore()
    expect(await held.release()).toBe(true)
    expect((await waiting).token).toBeGreaterThan(held.token)
  })

  it('a lease that cannot be renewed is held until its deadline, and not longer', async (context) => {
    const { proxy, locks, types } = await setUp(engine, context)
    const sentAt = performance.now()
    const lease = await locks.acquire(freshName(), { ttl: '2s' })
    proxy.blackhole()
    const lostAt = await new Promise<number>((resolve) => {
      lease.signal.addEventListener('abort', () => resolve(performance.now()))
    })
    expect(types()).toEqual(expect.arrayContaining(['unknown', 'lost']))
    expect(types()).not.toContain('renewed')
    expect(lostAt - sentAt).toBeGreaterThan(1500)
    expect(lease.isHeld()).toBe(false)
    expect(lease.signal.reason).toMatchObject({ name: 'LockLostError' })
    // While the network is still down.
    await locks.close()
    proxy.restore()
  })

  it('a lease survives an outage that ends before its deadline', async (context) => {
    const { proxy, locks, types } = await setUp(engine, context)
    const name = freshName()
    const lease = await locks.acquire(name, { ttl: '4s' })
    proxy.blackhole()
    await vi.waitUntil(() => types().includes('unknown'), { timeout: 20_000 })
    expect(lease.isHeld()).toBe(true)
    proxy.restore()
    await vi.waitUntil(() => types().at(-1) === 'renewed', { timeout: 20_000 })
    expect((await locks.inspect(name))?.token).toBe(lease.token)
    expect(await lease.release()).toBe(true)
  })

  it('a release that the database cannot be asked for fails as DATABASE, and can be repeated', async (context) => {
    const { proxy, locks } = await setUp(engine, context)
    const lease = await locks.acquire(freshName())
    proxy.blackhole()
    await expect(lease.release()).rejects.toMatchObject(isDatabaseError)
    proxy.restore()
    await lease.release()
    expect(await locks.tryAcquire(lease.name)).not.toBe(null)
  })

  it("with takeover: 'session', too, an acquire and a close end soon, and no session is left behind", async (context) => {
    const { proxy, locks, connected, types } = await setUp(engine, context)
    const held = await locks.acquire(freshName(), { ttl: '1m', takeover: 'session' })
    const other = createLocks(connected.adapter, { statementTimeout: '500ms', takeover: 'session' })
    proxy.blackhole()
    const started = performance.now()
    await expect(other.acquire(freshName())).rejects.toMatchObject(isDatabaseError)
    await Promise.all([locks.close(), other.close()])
    expect(performance.now() - started).toBeLessThan(BOUND_MS)
    expect(types()).toContain('error')
    proxy.restore()
    const isFree = async () =>
      (await connected.sql(`select 1 from rowlock_locks where session is not null`)).length === 0
    await vi.waitUntil(isFree, { timeout: 20_000 })
    await vi.waitUntil(async () => (await sessionLocks(connected)) === 0, { timeout: 20_000 })
    expect(held.isHeld()).toBe(false)
  })
})

/** How many sessions of this database say that they live. (MariaDB does not tell.) */
async function sessionLocks({ adapter, sql }: Connected): Promise<number> {
  const text =
    adapter.engine === 'postgres'
      ? `select 1 from pg_locks
         where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`
      : `select 1 from performance_schema.metadata_locks as l
         join performance_schema.threads as t on t.thread_id = l.owner_thread_id
         where l.object_type = 'USER LEVEL LOCK' and t.processlist_db = database()`
  return (await sql(text)).length
}

// Servers that the environment or Docker provides are not ours to stop.
const stoppable = servedEngines.filter(
  ({ server }) => server?.pid && (server.name === 'postgres18' || server.name === 'mariadb'),
)

describe.each(stoppable)('when the server of $name is stopped', { concurrent: true, timeout: 90_000 }, (engine) => {
  it('an acquire fails as DATABASE, and a lease is held until its deadline', async () => {
    const server = await startServer(engine.server!.name)
    const connected = await connectors[engine.connector](server.url as never)
    const locks = createLocks(connected.adapter, { wait: '200ms', statementTimeout: '500ms' })
    await locks.migrate()
    const [busy, free] = [freshName(), freshName()]
    const lease = await locks.acquire(busy, { ttl: '5s' })
    await server.stop()

    await expect(locks.acquire(busy)).rejects.toMatchObject(isDatabaseError)
    await expect(locks.tryAcquire(free)).rejects.toMatchObject(isDatabaseError)
    expect(lease.isHeld()).toBe(true)
    await vi.waitUntil(() => lease.signal.aborted, { timeout: 20_000 })
    await locks.close()
    await connected.close().catch(() => undefined)
  })
})

const withTables = enginesOnce.filter(({ engine }) => engine !== 'memory')

it.each(withTables)(
  'every verb fails as NOT_MIGRATED where the table is missing on $name',
  async (engine: TestEngine) => {
    const open = await engine.open()
    const locks = await open.locks()
    const held = await locks.acquire(freshName())
    await open.connected.sql('drop table rowlock_locks')
    const notMigrated = { name: 'LockError', code: 'NOT_MIGRATED', message: expect.stringContaining('migrate') }
    const guarding = open.connected.transaction(async (tx) => held.guard(tx))
    await expect(guarding).rejects.toMatchObject({ code: expect.stringMatching(/NOT_MIGRATED|INVALID_ARGUMENT/) })
    for (const call of [
      () => locks.acquire(freshName()),
      () => locks.tryAcquire(freshName()),
      () => locks.inspect(freshName()),
      () => locks.list(),
      () => locks.forceRelease(freshName()),
      () => locks.purge({ idleFor: 0 }),
      () => held.extend('1m'),
      () => held.release(),
    ]) {
      await expect(call()).rejects.toMatchObject(notMigrated)
    }
    await open.close()
  },
)
