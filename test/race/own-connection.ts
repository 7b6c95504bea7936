import { afterEach, describe, expect, it } from 'vitest'
import { type Adapter, createLocks, type InstanceOptions, type LockEvent, type Locks } from '../../src/index.ts'
import type { Connected } from '../adapters.ts'
import { query } from '../connect.ts'
import { eventOf, eventually, recordEvents, sleep, untilWaiting } from '../contract/harness.ts'
import { freshName, type OpenEngine, type TestEngine } from '../engines.ts'

export interface OwnConnectionOptions {
  /** The adapter under test, if it is not that of the connection: with `sessions`, say. */
  readonly adapter?: (connected: Connected, url: string) => { adapter: Adapter<unknown>; close(): Promise<void> }
  /** Whether the connection is beside the pool, not one of the pool's. */
  readonly beside?: boolean
}

const TTL_MS = 600
const POOL_SIZE = 3

/** What keeps leases alive and waiters moving goes over a connection of rowlock's own. Engines side by side: most of it is waiting. */
export function ownConnectionSuite(
  engine: Pick<TestEngine, 'name' | 'engine' | 'server' | 'open'>,
  { adapter, beside = true }: OwnConnectionOptions = {},
): void {
  describe(`a connection of rowlock's own with ${engine.name}`, { concurrent: true, timeout: 60_000 }, () => {
    const closing: (() => Promise<unknown>)[] = []

    afterEach(async () => {
      for (const close of closing.splice(0).reverse()) await close()
    })

    async function setUp(poolSize: number, options: InstanceOptions = {}) {
      const open = await engine.open()
      closing.push(() => open.close())
      const connected = await open.connect({ poolSize })
      return { open, connected, ...instance(open, connected, options) }
    }

    function instance(open: OpenEngine, connected: Connected, options: InstanceOptions) {
      const given = adapter?.(connected, open.url)
      if (given !== undefined) closing.push(() => given.close())
      const locks = createLocks(given?.adapter ?? connected.adapter, { ttl: TTL_MS, wait: '15s', ...options })
      closing.push(() => locks.close())
      return { locks, events: recordEvents(locks) }
    }

    it.sequential('no lease is lost, and waiters are served, with the whole pool busy for ten ttls', async () => {
      const { open, connected, locks, events } = await setUp(POOL_SIZE)
      const others = await open.locks({ ttl: '20s' })
      const leases = await Promise.all(Array.from({ length: 4 }, () => locks.acquire(freshName())))
      const inTheWay = await others.acquire(freshName())
      const waiting = locks.acquire(inTheWay.name)
      // Awaited further down, unless the test has failed by then.
      waiting.catch(() => undefined)
      await untilWaiting(others, inTheWay.name)
      const pool = await exhaust(engine, connected, POOL_SIZE)
      try {
        const busySince = performance.now()
        await inTheWay.release()
        const served = await waiting
        expect(await served.release()).toBe(true)
        await sleep(busySince + 10 * TTL_MS - performance.now())
        expect(lost(events)).toEqual([])
        for (const lease of leases) {
          expect(lease.isHeld()).toBe(true)
          expect(await others.tryAcquire(lease.name)).toBeNull()
        }
        expect(await leases[0]!.release()).toBe(true)
      } finally {
        await pool.free()
      }
      for (const lease of leases.slice(1)) expect(await lease.release()).toBe(true)
    })

    it.sequential('it does not keep the pool from ending while a lease is held', async () => {
      const open = await engine.open()
      const { locks, events } = instance(open, open.connected, {})
      const lease = await locks.acquire(freshName())
      await eventOf(events, 'renewed', lease.name)
      await open.close()
      await eventually(() => expect(lease.isHeld()).toBe(false))
    })

    // One of the pool's can be replaced only when the pool has another to spare.
    if (beside) {
      it.sequential('it is opened again when it breaks, and no lease is lost meanwhile', async () => {
        const { open, connected, locks, events } = await setUp(POOL_SIZE, { ttl: 3 * TTL_MS })
        const lease = await locks.acquire(freshName())
        await eventOf(events, 'renewed', lease.name)
        const pool = await exhaust(engine, connected, POOL_SIZE)
        try {
          for (let round = 0; round < 2; round++) {
            await endSessions(engine, open.url, pool.sessions)
            const before = events.length
            await eventually(() => {
              expect(lost(events)).toEqual([])
              const renewals = events.slice(before).filter(({ type }) => type === 'renewed')
              expect(renewals.length).toBeGreaterThan(2)
            })
          }
        } finally {
          await pool.free()
        }
        expect(await lease.release()).toBe(true)
      })

      it.sequential('there is one as long as there is something to keep alive, and none before', async () => {
        const { open, connected, locks, events } = await setUp(1)
        const others = await open.locks({ ttl: '20s' })
        await connected.sql('select 1')
        const inTheWay = await others.acquire(freshName())
        // Over the connection of theirs, which is there from now on.
        await inTheWay.extend('20s')
        expect(await locks.inspect(freshName())).toBeNull()
        const before = await sessions(engine, open.url)
        const waiting = locks.acquire(inTheWay.name)
        waiting.catch(() => undefined)
        await untilWaiting(others, inTheWay.name)
        const lease = await locks.acquire(freshName())
        await eventOf(events, 'renewed', lease.name)
        await eventually(async () => {
          const now = await sessions(engine, open.url)
          expect(now.filter((id) => !before.includes(id))).toHaveLength(1)
        })
        await inTheWay.release()
        await (await waiting).release()
        await lease.release()
        expect(lost(events)).toEqual([])
      })
    }

    it.sequential('there is none with ownConnection: false', async () => {
      const withoutOwn = { ttl: TTL_MS, ownConnection: false }
      const { open, connected, locks, events } = await setUp(1, withoutOwn)
      await connected.sql('select 1')
      const before = await sessions(engine, open.url)
      const lease = await locks.acquire(freshName())
      await eventOf(events, 'renewed', lease.name)
      const waiting = locks.acquire(lease.name)
      await untilWaiting(locks, lease.name)
      const now = await sessions(engine, open.url)
      expect(now.filter((id) => !before.includes(id))).toEqual([])
      expect(await lease.release()).toBe(true)
      await (await waiting).release()
    })
  })
}

/** Of an adapter that can open no connection of its own. */
export function withoutOwnConnectionSuite(engine: Pick<TestEngine, 'name' | 'engine' | 'server' | 'open'>): void {
  it(`a warning says once that renewals had to wait for the pool with ${engine.name}`, async () => {
    const open = await engine.open()
    const connected = await open.connect({ poolSize: 2 })
    const locks: Locks<unknown> = createLocks(connected.adapter, { ttl: TTL_MS })
    const events = recordEvents(locks)
    await locks.acquire(freshName())
    for (let round = 0; round < 2; round++) {
      const pool = await exhaust(engine, connected, 2)
      await sleep(2 * TTL_MS)
      await pool.free()
      await locks.acquire(freshName())
    }
    const warnings = events.flatMap((event) => (event.type === 'warning' ? [event.message] : []))
    expect(warnings.filter((message) => message.includes('sessions'))).toHaveLength(1)
    await locks.close()
    await open.close()
  })
}

/** Of an adapter that keeps a connection of the pool's: for an application that needs them all, it says so. */
export function scarcePoolSuite(engine: Pick<TestEngine, 'name' | 'engine' | 'server' | 'open'>): void {
  it(`a warning tells of a pool that lacks the connection which is kept, with ${engine.name}`, async () => {
    const open = await engine.open()
    const connected = await open.connect({ poolSize: 2 })
    const locks: Locks<unknown> = createLocks(connected.adapter, { ttl: '20s' })
    const events = recordEvents(locks)
    const lease = await locks.acquire(freshName())
    // Kept from the first lease on.
    await eventually(async () => expect(await locks.inspect(lease.name)).not.toBeNull())
    await sleep(500)
    let asking: Promise<unknown> | undefined
    await connected.transaction(async (tx) => {
      await connected.sql('select 1', tx)
      // The application waits for a second connection while it has the other one.
      asking = connected.sql('select 1')
      const warned = () =>
        events.some((event) => event.type === 'warning' && event.message.includes('Enlarge the pool'))
      await eventually(() => expect(warned()).toBe(true))
    })
    await asking
    expect(await lease.release()).toBe(true)
    await locks.close()
    await open.close()
  })
}

function lost(events: readonly LockEvent[]): LockEvent[] {
  return events.filter(({ type }) => type === 'lost')
}

/** The application's transactions take all of its pool, and more of them wait for a connection. */
async function exhaust(
  { engine }: Pick<TestEngine, 'engine'>,
  connected: Connected,
  poolSize: number,
): Promise<{ sessions: readonly number[]; free(): Promise<void> }> {
  const sessions: number[] = []
  let free!: () => void
  const freed = new Promise<void>((resolve) => {
    free = resolve
  })
  const id = engine === 'postgres' ? 'pg_backend_pid()' : 'connection_id()'
  const transactions = Array.from({ length: 2 * poolSize }, () =>
    connected.transaction(async (tx) => {
      const [row] = await connected.sql(`select ${id} as id`, tx)
      sessions.push(Number(row?.id))
      await freed
    }),
  )
  // One of the pool's may be reserved for rowlock.
  await eventually(() => expect(sessions.length).toBeGreaterThanOrEqual(poolSize - 1))
  return {
    sessions,
    async free() {
      free()
      await Promise.all(transactions)
    },
  }
}

/** All that are connected to the database. */
async function sessions({ engine, server }: Pick<TestEngine, 'engine' | 'server'>, url: string): Promise<number[]> {
  const database = new URL(url).pathname.slice(1)
  const rows = await query(
    server!.url,
    engine === 'postgres'
      ? `select pid as id from pg_stat_activity where datname = '${database}' and backend_type = 'client backend'`
      : `select id as id from information_schema.processlist where db = '${database}'`,
  )
  return rows.map(({ id }) => Number(id))
}

async function endSessions(engine: Pick<TestEngine, 'engine' | 'server'>, url: string, except: readonly number[]) {
  for (const id of await sessions(engine, url)) {
    if (except.includes(id)) continue
    if (engine.engine === 'postgres') await query(engine.server!.url, `select pg_terminate_backend(${id})`)
    else await query(engine.server!.url, `kill ${id}`).catch((error: { code?: string }) => ended(error))
  }
}

/** It may have ended by itself. */
function ended(error: { code?: string }): void {
  if (error.code !== 'ER_NO_SUCH_THREAD') throw error
}
