import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { createLocks, isTransactionAborted, type Lease, type Locks } from '../../src/index.ts'
import type { Connected, Isolation } from '../adapters.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { sharedEngines } from './one-per-engine.ts'

/** Several times as long as waiters pause between two looks. */
const SOME_POLLS = 300

describe.each(sharedEngines)('on $name', (engine) => {
  let open: OpenEngine
  /** The application whose transactions are guarded. */
  let here: Connected
  let holders: Locks<unknown>
  /** Another one, which wants its locks. */
  let elsewhere: Connected
  let others: Locks<unknown>

  beforeAll(async () => {
    open = await engine.open()
    // Tests run at the same time.
    here = await open.connect({ poolSize: 20 })
    holders = createLocks(here.adapter)
    elsewhere = await open.connect({ poolSize: 20 })
    others = createLocks(elsewhere.adapter)
    await here.sql('create table ledger (id int primary key, value int not null, token bigint not null, stale int)')
    await here.sql('create table unrelated (value int)')
  })

  afterAll(async () => {
    await Promise.all([holders.close(), others.close()])
    await open.close()
  })

  let rows = 0
  /** A row that only one test writes. */
  const newRow = async () => {
    const id = ++rows
    await here.sql(`insert into ledger values (${id}, 0, 0, 0)`)
    return {
      async value() {
        return Number((await here.sql(`select value from ledger where id = ${id}`))[0]?.value)
      },
      text: `update ledger set value = value + 1 where id = ${id}`,
      /** Notes if a later token has written before. */
      textOf: ({ token }: Lease<unknown>) =>
        `update ledger set stale = stale + case when token > ${token} then 1 else 0 end, token = ${token} where id = ${id}`,
      async stale() {
        return Number((await here.sql(`select stale from ledger where id = ${id}`))[0]?.stale)
      },
    }
  }

  /** Somebody else has the lock, and its former holder has not heard of it. */
  const takeOver = async (name: string) => {
    expect(await others.forceRelease(name)).toBe(true)
    expect(await others.tryAcquire(name)).not.toBe(null)
  }

  /** Until nothing but a guard keeps the lease from others. */
  const untilExpired = async (lease: Lease<unknown>) => {
    await vi.waitUntil(() => !lease.isHeld(), { timeout: 20_000 })
    await vi.waitUntil(async () => (await others.inspect(lease.name)) === null, { timeout: 20_000 })
  }

  const isServed = engine.server !== undefined
  const levels: readonly (Isolation | 'its one level')[] = isServed ? engine.isolations : ['its one level']

  describe.each(levels)('at %s', { concurrent: isServed, timeout: 60_000 }, (level) => {
    const transaction = <T>(body: (tx: unknown) => Promise<T>, connected = here) =>
      connected.transaction(body, level === 'its one level' ? undefined : level)

    it('a guard that came first keeps others from the lock until the commit, past the expiry', async () => {
      const row = await newRow()
      const lease = await holders.acquire(freshName(), { ttl: '1s', renew: false })
      let waiting: Promise<{ next: Lease<unknown>; seen: number }> | undefined
      let isGranted = false
      await transaction(async (tx) => {
        await lease.guard(tx)
        await here.sql(row.text, tx)
        expect(await others.tryAcquire(lease.name)).toBe(null)
        await untilExpired(lease)
        // The transaction has SQLite's one write lock: nobody can tell whether it guards this lock.
        if (isServed) {
          expect(await others.tryAcquire(lease.name)).toBe(null)
          expect(await others.tryAcquire(freshName())).not.toBe(null)
        }
        waiting = others.acquire(lease.name, { wait: '20s' }).then(async (next) => {
          isGranted = true
          return { next, seen: await row.value() }
        })
        await sleep(SOME_POLLS)
        expect(isGranted).toBe(false)
      })

      const { next, seen } = await waiting!
      expect(seen).toBe(1)
      expect(next.token).toBeGreaterThan(lease.token)
    })

    it('a guard that comes after a takeover fails', async () => {
      const row = await newRow()
      const lease = await holders.acquire(freshName())
      await takeOver(lease.name)
      const late = transaction(async (tx) => {
        await lease.guard(tx)
        await here.sql(row.text, tx)
      })
      await expect(late).rejects.toMatchObject({ name: 'LockLostError', code: 'LOCK_LOST' })
      expect(await row.value()).toBe(0)
      expect(lease.signal.aborted).toBe(true)
    })

    // Nobody can take over a lock on SQLite during a transaction that has SQLite's one write lock.
    it.runIf(isServed)('a guard fails in a snapshot from before the takeover', async () => {
      const row = await newRow()
      const lease = await holders.acquire(freshName())
      const late = transaction(async (tx) => {
        await here.sql('select value from unrelated', tx)
        await takeOver(lease.name)
        await lease.guard(tx)
        await here.sql(row.text, tx)
      })
      await expect(late).rejects.toMatchObject({ name: 'LockLostError', code: 'LOCK_LOST' })
      expect(await row.value()).toBe(0)
      expect(lease.signal.aborted).toBe(true)
    })

    it.runIf(!isServed)('a guard fails in a deferred transaction that has read before the takeover', async () => {
      const lease = await holders.acquire(freshName())
      let handle: unknown
      await transaction(async (tx) => {
        handle = tx
      })
      await here.sql('begin deferred')
      try {
        await here.sql('select value from unrelated')
        await takeOver(lease.name)
        await expect((async () => lease.guard(handle))()).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' })
      } finally {
        await here.sql('rollback')
      }
    })

    it.runIf(isServed)('a guarded write fails in a snapshot from before the takeover', async () => {
      const row = await newRow()
      const lease = await holders.acquire(freshName())
      const late = transaction(async (tx) => {
        await here.sql('select value from unrelated', tx)
        await takeOver(lease.name)
        await lease.guarded(tx, { text: row.text, values: [] })
      })
      await expect(late).rejects.toMatchObject({ name: 'LockLostError', code: 'LOCK_LOST' })
      expect(await row.value()).toBe(0)
      expect(lease.signal.aborted).toBe(true)
    })

    it.runIf(isServed)('a guarded write that fails for another reason is not mistaken for a lost lock', async () => {
      const row = await newRow()
      const lease = await holders.acquire(freshName())
      const write = transaction(async (tx) => {
        await here.sql('select value from unrelated', tx)
        // From here on a snapshot may forbid the same row to us.
        await elsewhere.sql(row.text)
        await lease.guarded(tx, { text: row.text, values: [] })
      })
      expect(await write.then(() => true, isTransactionAborted)).toBe(true)
      expect(lease.isHeld()).toBe(true)
      expect(await lease.release()).toBe(true)
    })

    it('of guards and takeovers at the same moment, no commit comes after a later token', async () => {
      const row = await newRow()
      const name = freshName()
      let refused = 0
      // Until it has gone both ways.
      for (let round = 0; round < 25 || refused === 0 || refused === round; round++) {
        const lease = await holders.acquire(name, { ttl: '5s', wait: '20s' })
        const guarded = async () => {
          await sleep(Math.random() * 5)
          await transaction(async (tx) => {
            await lease.guard(tx)
            await sleep(Math.random() * 5)
            await here.sql(row.textOf(lease), tx)
          })
        }
        const outcome = guarded().catch((error: Error & { code?: string }) => {
          refused++
          expect(error.code === 'LOCK_LOST' || isTransactionAborted(error)).toBe(true)
        })
        await sleep(Math.random() * 6)
        await others.forceRelease(name)
        const next = await others.acquire(name, { ttl: '5s', wait: '20s' })
        await transaction((tx) => elsewhere.sql(row.textOf(next), tx), elsewhere)
        await outcome
        await lease.release()
        await next.release()
      }
      expect(await row.stale()).toBe(0)
    })

    it('a force-release waits for the guarded transaction', async () => {
      const row = await newRow()
      const lease = await holders.acquire(freshName())
      let forced: Promise<boolean> | undefined
      let isForced = false
      await transaction(async (tx) => {
        await lease.guard(tx)
        await here.sql(row.text, tx)
        const impatient = others.forceRelease(lease.name, { wait: '200ms' })
        await expect(impatient).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
        forced = others.forceRelease(lease.name, { wait: '20s' }).then((answer) => {
          isForced = true
          return answer
        })
        await sleep(SOME_POLLS)
        expect(isForced).toBe(false)
      })
      expect(await forced).toBe(true)
      expect(await row.value()).toBe(1)
    })

    it.runIf(engine.engine === 'postgres')(
      'a lease outlives its ttl within a long guarded transaction, because its heartbeat goes on',
      async () => {
        const lease = await holders.acquire(freshName(), { ttl: '1s' })
        await transaction(async (tx) => {
          await lease.guard(tx)
          await sleep(2000)
          expect(lease.isHeld()).toBe(true)
          expect(await others.tryAcquire(lease.name)).toBe(null)
          // Now in a snapshot that may be older than the renewals.
          await lease.guard(tx)
        })
        expect(await lease.release()).toBe(true)
      },
    )

    it.runIf(engine.engine === 'mysql')(
      'a heartbeat that waits behind a long guarded transaction harms neither its commit nor other leases',
      async () => {
        const row = await newRow()
        const lease = await holders.acquire(freshName(), { ttl: '1s' })
        const other = await holders.acquire(freshName(), { ttl: '1s' })
        await transaction(async (tx) => {
          await lease.guard(tx)
          await here.sql(row.text, tx)
          await sleep(2000)
          expect(await others.tryAcquire(lease.name)).toBe(null)
          expect(other.isHeld()).toBe(true)
        })
        expect(await row.value()).toBe(1)
        expect(await other.release()).toBe(true)
      },
    )
  })
})
