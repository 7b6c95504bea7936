import { describe, expect, it } from 'vitest'
import { createLocks, isTransactionAborted, type LockEvent, type Locks } from '../../src/index.ts'
import type { Connected } from '../adapters.ts'
import { eventually, untilWaiting } from '../contract/harness.ts'
import { freshName, type TestEngine } from '../engines.ts'
import { asksBesideTransactions, type Both, levelsOf, openBoth } from './setup.ts'

const LONG = { ttl: '20s', wait: '15s' } as const

/** Locks inside the caller's own transaction, at every isolation level that the engine has. */
export function withinSuite(engine: TestEngine): void {
  const levels = levelsOf(engine)

  // Engines side by side, since most of the time is spent waiting; but PGlite keeps this thread busy.
  describe(`within(tx) with ${engine.name}`, { concurrent: engine.connector !== 'pglite' }, () => {
    let open: Both['open']
    let other: Both['other']
    let locks: Both['locks']

    openBoth(engine, LONG, async (both) => {
      ;({ open, other, locks } = both)
      if (engine.engine !== 'memory') {
        const type = engine.engine === 'mysql' ? 'varchar(100)' : 'text'
        await open.connected.sql(`create table written (what ${type})`)
      }
    })

    const write = async (tx: unknown, what: string) => {
      if (engine.engine !== 'memory') await open.connected.sql(`insert into written (what) values ('${what}')`, tx)
    }
    const isWritten = async (what: string) =>
      engine.engine === 'memory' ||
      (await other.connected.sql(`select what from written where what = '${what}'`)).length > 0
    const concurrent = asksBesideTransactions(engine)

    describe.sequential.each(levels)('at isolation level %s', (level) => {
      const inTransaction = <T>(body: (tx: unknown) => Promise<T>) => open.connected.transaction(body, level)
      const inOther = <T>(body: (tx: unknown) => Promise<T>) => other.connected.transaction(body, level)
      /** As an application does it: a transaction that the database gave up is retried as a whole. */
      async function retried<T>(body: () => Promise<T>): Promise<T> {
        for (;;) {
          try {
            return await body()
          } catch (error) {
            if (!isTransactionAborted(error)) throw error
          }
        }
      }

      it('holds the lock until the commit, and every hold has a higher token', async () => {
        const name = freshName()
        const tokens: bigint[] = []
        for (let round = 0; round < 3; round++) {
          await inTransaction(async (tx) => void tokens.push((await locks.within(tx).acquire(name)).token))
          const lease = await other.locks.acquire(name)
          tokens.push(lease.token)
          await lease.release()
        }
        expect(tokens).toEqual([...tokens].sort((a, b) => (a < b ? -1 : 1)))
        expect(new Set(tokens).size).toBe(6)
      })

      it('un-acquires with a rollback, and the write is gone with the lock', async () => {
        const name = freshName()
        const undo = new Error('undo')
        const attempt = inTransaction(async (tx) => {
          await locks.within(tx).acquire(name)
          await write(tx, `${name} undone`)
          throw undo
        })
        await expect(attempt).rejects.toBe(undo)
        if (engine.engine !== 'memory') expect(await isWritten(`${name} undone`)).toBe(false)
        const lease = await other.locks.tryAcquire(name)
        expect(lease).not.toBeNull()
        await lease?.release()
      })

      itIf(concurrent)('excludes leases and other transactions while it is open', async () => {
        const name = freshName()
        await inTransaction(async (tx) => {
          await locks.within(tx).acquire(name)
          expect(await other.locks.tryAcquire(name)).toBeNull()
          await inOther(async (second) => {
            expect(await other.locks.within(second).tryAcquire(name)).toBeNull()
          })
        })
        const lease = await other.locks.tryAcquire(name)
        expect(lease).not.toBeNull()
        await lease?.release()
      })

      itIf(concurrent)('lets a wait of others time out while it is open, and is not followed by it', async () => {
        const name = freshName()
        await inTransaction(async (tx) => {
          await locks.within(tx).acquire(name)
          await expect(other.locks.acquire(name, { wait: 50 })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
        })
        // It has its answer at once; if its arrival in the queue was on its way, it leaves a moment later.
        await eventually(async () => {
          const lease = await other.locks.tryAcquire(name)
          expect(lease).not.toBeNull()
          await lease?.release()
        })
      })

      it('is excluded by a lease: a try answers null and the transaction stays usable', async () => {
        const name = freshName()
        const lease = await other.locks.acquire(name)
        await inTransaction(async (tx) => {
          expect(await locks.within(tx).tryAcquire(name)).toBeNull()
          await write(tx, `${name} went on`)
          await expect(locks.within(tx).acquire(name, { wait: 100 })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
          await write(tx, `${name} went on`)
        })
        expect(await isWritten(`${name} went on`)).toBe(true)
        expect(await lease.release()).toBe(true)
      })

      itIf(concurrent)('does not delay the heartbeat of the holder it failed to get the lock from', async () => {
        const name = freshName()
        const lease = await other.locks.acquire(name, { ttl: '2s' })
        const events: LockEvent['type'][] = []
        const off = other.locks.on((event) => void ('name' in event && event.name === name && events.push(event.type)))
        await inTransaction(async (tx) => {
          expect(await locks.within(tx).tryAcquire(name)).toBeNull()
          while (events.filter((type) => type === 'renewed').length < 3) await sleep(20)
        })
        off()
        expect(events.filter((type) => type !== 'renewed')).toEqual([])
        expect(await lease.release()).toBe(true)
      })

      itIf(concurrent)('is served when the lease it waits for ends', async () => {
        const name = freshName()
        const lease = await other.locks.acquire(name)
        const served = retried(() =>
          inTransaction(async (tx) => {
            const held = await locks.within(tx).acquire(name, { wait: '15s' })
            await write(tx, `${name} served`)
            return held
          }),
        )
        await sleep(150)
        expect(await lease.release()).toBe(true)
        expect((await served).token).toBeGreaterThan(lease.token)
        expect(await isWritten(`${name} served`)).toBe(true)
      })

      itIf(concurrent)('makes a lease wait until the transaction has ended', async () => {
        const name = freshName()
        let ended = false
        let waiting: Promise<boolean> | undefined
        const held = await inTransaction(async (tx) => {
          const hold = await locks.within(tx).acquire(name)
          waiting = other.locks.acquire(name).then(async (lease) => {
            expect(lease.token).toBeGreaterThan(hold.token)
            await lease.release()
            return ended
          })
          await sleep(200)
          ended = true
          return hold
        })
        expect(held.name).toBe(name)
        expect(await waiting).toBe(true)
      })

      itIf(concurrent)('serves a transaction that waits for another one', async () => {
        const name = freshName()
        const order: string[] = []
        let waiting: Promise<unknown> | undefined
        await inTransaction(async (tx) => {
          await locks.within(tx).acquire(name)
          waiting = retried(() =>
            inOther(async (second) => {
              await other.locks.within(second).acquire(name)
              order.push('second')
            }),
          )
          await sleep(200)
          order.push('first')
        })
        await waiting
        expect(order).toEqual(['first', 'second'])
      })

      itIf(engine.server !== undefined)('names a deadlock, and nothing is held after it', async () => {
        const [left, right] = [freshName(), freshName()]
        const arrived = new Set<string>()
        const cross = async (first: 'left' | 'right', side: { connected: Connected; locks: Locks<unknown> }) =>
          side.connected.transaction(async (tx) => {
            const second = first === 'left' ? 'right' : 'left'
            await side.locks.within(tx).acquire(first === 'left' ? left : right)
            arrived.add(first)
            while (!arrived.has(second)) await sleep(5)
            await side.locks.within(tx).acquire(first === 'left' ? right : left, { wait: '20s' })
          }, level)
        const outcomes = await Promise.allSettled([
          cross('left', { connected: open.connected, locks }),
          cross('right', other),
        ])
        const failed = outcomes.filter((outcome) => outcome.status === 'rejected')
        expect(failed.length).toBeGreaterThan(0)
        for (const { reason } of failed) {
          expect(reason).toMatchObject({ code: 'TRANSACTION_ABORTED' })
          expect(isTransactionAborted(reason)).toBe(true)
        }
        for (const name of [left, right]) {
          const lease = await locks.tryAcquire(name)
          expect(lease).not.toBeNull()
          await lease?.release()
        }
      })

      it('starts a lease with the commit, together with the write', async () => {
        const name = freshName()
        const pending = await inTransaction(async (tx) => {
          const lease = await locks.within(tx).lease(name, { ttl: '20s' })
          await write(tx, `${name} leased`)
          if (concurrent) expect(await other.locks.inspect(name)).toBeNull()
          return lease
        })
        expect(await isWritten(`${name} leased`)).toBe(true)
        expect(await other.locks.tryAcquire(name)).toBeNull()
        const lease = await pending.confirm()
        expect(lease.isHeld()).toBe(true)
        expect(lease.token).toBe(pending.token)
        expect(await lease.release()).toBe(true)
      })

      it('makes what the transaction has already a lease, if it asks for one', async () => {
        const name = freshName()
        const { held, pending } = await inTransaction(async (tx) => {
          const held = await locks.within(tx).acquire(name)
          return { held, pending: await locks.within(tx).lease(name, { ttl: '20s' }) }
        })
        expect(pending.token).toBeGreaterThanOrEqual(held.token)
        expect(await other.locks.tryAcquire(name)).toBeNull()
        const lease = await pending.confirm()
        expect(lease.token).toBe(pending.token)
        expect(await lease.release()).toBe(true)
      })

      it('refuses to confirm a lease whose transaction rolled back', async () => {
        const name = freshName()
        let pending: { confirm(): Promise<unknown> } | undefined
        const attempt = inTransaction(async (tx) => {
          pending = await locks.within(tx).lease(name)
          throw new Error('undo')
        })
        await expect(attempt).rejects.toThrow('undo')
        await expect(pending?.confirm()).rejects.toMatchObject({ name: 'LockLostError', code: 'LOCK_LOST' })
        const lease = await other.locks.tryAcquire(name)
        expect(lease).not.toBeNull()
        await lease?.release()
      })

      it('releases with the commit: nobody gets the lock before the write is there', async () => {
        const name = freshName()
        const lease = await locks.acquire(name)
        const next = other.locks.acquire(name).then(async (following) => {
          const seen = await isWritten(`${name} last`)
          await following.release()
          return { seen, token: following.token }
        })
        // In a snapshot from before it came, the release would not see it: that transaction would have to be retried.
        if (concurrent) await untilWaiting(locks, name)
        await inTransaction(async (tx) => {
          await lease.release(tx)
          if (concurrent) expect(await other.locks.tryAcquire(name)).toBeNull()
          await write(tx, `${name} last`)
        })
        expect(lease.isHeld()).toBe(false)
        const { seen, token } = await next
        expect(seen).toBe(true)
        expect(token).toBeGreaterThan(lease.token)
        expect(await lease.release()).toBe(true)
      })

      it('keeps the lock when a release is rolled back, until it is released again', async () => {
        const name = freshName()
        const lease = await locks.acquire(name)
        const attempt = inTransaction(async (tx) => {
          await lease.release(tx)
          throw new Error('undo')
        })
        await expect(attempt).rejects.toThrow('undo')
        expect(await other.locks.tryAcquire(name)).toBeNull()
        await lease.release()
        const following = await other.locks.tryAcquire(name)
        expect(following).not.toBeNull()
        await following?.release()
      })

      it('refuses to release a lost lease with a commit', async () => {
        const name = freshName()
        const lease = await locks.acquire(name)
        await other.locks.forceRelease(name)
        const attempt = inTransaction(async (tx) => {
          await write(tx, `${name} stale`)
          await lease.release(tx)
        })
        await expect(attempt).rejects.toMatchObject({ code: 'LOCK_LOST' })
        if (engine.engine !== 'memory') expect(await isWritten(`${name} stale`)).toBe(false)
      })

      it('stops waiting when the signal aborts, with its reason', async () => {
        const name = freshName()
        const lease = await other.locks.acquire(name)
        const abort = new AbortController()
        const reason = new Error('no longer needed')
        setTimeout(() => abort.abort(reason), 100)
        const attempt = inTransaction((tx) => locks.within(tx).acquire(name, { signal: abort.signal }))
        await expect(attempt).rejects.toBe(reason)
        expect(await lease.release()).toBe(true)
      })

      it('takes the transaction from a function, too', async () => {
        const name = freshName()
        await inTransaction(async (tx) => {
          expect((await locks.within(() => tx).acquire(name)).name).toBe(name)
        })
      })

      itIf(engine.server !== undefined)('puts the settings back that it changes', async () => {
        const name = freshName()
        const setting =
          engine.engine === 'postgres' ? 'show lock_timeout' : 'select @@session.innodb_lock_wait_timeout as s'
        await inTransaction(async (tx) => {
          await locks.within(tx).acquire(name)
          await inOther(async (second) => {
            const before = await other.connected.sql(setting, second)
            await expect(other.locks.within(second).acquire(name, { wait: 1100 })).rejects.toMatchObject({
              code: 'LOCK_TIMEOUT',
            })
            expect(await other.connected.sql(setting, second)).toEqual(before)
          })
        })
      })
    })

    itIf(engine.server !== undefined)(
      'takes the lock with the write or not at all when its session is killed',
      async () => {
        const name = freshName()
        const connected = await open.connect()
        const own = await open.locks(LONG)
        const kill = engine.engine === 'postgres' ? 'select pg_terminate_backend' : 'kill'
        const id = engine.engine === 'postgres' ? 'pg_backend_pid()' : 'connection_id()'
        const attempt = connected.transaction(async (tx) => {
          await own.within(tx).acquire(name)
          await connected.sql(`insert into written (what) values ('${name} killed')`, tx)
          const [row] = await connected.sql(`select ${id} as id`, tx)
          await other.connected.sql(engine.engine === 'postgres' ? `${kill}(${row?.id})` : `${kill} ${row?.id}`)
          await sleep(100)
        })
        await expect(attempt).rejects.toThrow()
        const lease = await other.locks.acquire(name)
        expect(await isWritten(`${name} killed`)).toBe(false)
        await lease.release()
      },
    )

    itIf(engine.server !== undefined)(
      'works on a pool of one connection, or says which connection is missing',
      async () => {
        const name = freshName()
        const own = await open.locks({ ...LONG, poolSize: 1, statementTimeout: 500 })
        const connected = await open.connect({ poolSize: 1 })
        const single = createLocks(connected.adapter, { ...LONG, statementTimeout: 500 })
        const outcome = await connected
          .transaction(async (tx) => (await single.within(tx).acquire(name, { wait: '1s' })).name)
          .catch((error: Error) => error)
        if (outcome instanceof Error) {
          expect(outcome).toMatchObject({ code: 'DATABASE' })
          expect(outcome.message).toContain('pool')
        } else {
          expect(outcome).toBe(name)
        }
        await single.close()
        const lease = await own.acquire(name)
        await lease.release()
      },
    )

    itIf(engine.engine !== 'memory')(
      'refuses a handle on which no transaction is open, and changes nothing',
      async () => {
        const name = freshName()
        const wrong = [undefined, null, 'tx', {}, () => undefined]
        for (const handle of wrong) {
          await expect(async () => locks.within(handle).lease(name)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
        }
        expect(await other.locks.inspect(name)).toBeNull()
      },
    )
  })
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** Leaves out what an engine has no notion of, so that nothing shows as skipped. */
function itIf(possible: boolean): typeof it {
  return possible ? it : ((() => undefined) as unknown as typeof it)
}
