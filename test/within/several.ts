import { describe, expect, it } from 'vitest'
import { createLocks, isTransactionAborted, type Locks } from '../../src/index.ts'
import { eventually, openTransaction, untilWaiting } from '../contract/harness.ts'
import { freshName, type TestEngine } from '../engines.ts'
import { asksBesideTransactions, type Both, levelsOf, openBoth } from './setup.ts'

const LONG = { ttl: '20s', wait: '20s', statementTimeout: '20s' } as const

/** Several locks in the caller's own transaction, at every isolation level that the engine has. */
export function severalWithinSuite(engine: TestEngine): void {
  const levels = levelsOf(engine)
  const concurrent = asksBesideTransactions(engine)

  describe(`within(tx).acquireAll with ${engine.name}`, { timeout: 60_000 }, () => {
    let open: Both['open']
    let other: Both['other']
    let locks: Both['locks']

    openBoth(engine, LONG, (both) => {
      ;({ open, other, locks } = both)
    })

    const freshNames = (count = 3) => {
      const name = freshName()
      return Array.from({ length: count }, (_, index) => `${name}:${String(index).padStart(4, '0')}`)
    }
    const held = async (names: readonly string[]) => {
      const tries = names.map(async (name) => {
        const lease = await other.locks.tryAcquire(name)
        await lease?.release()
        return lease === null
      })
      return Promise.all(tries)
    }

    describe.each(levels)('at isolation level %s', (level) => {
      const inTransaction = <T>(body: (tx: unknown) => Promise<T>) => open.connected.transaction(body, level)
      const inOther = <T>(body: (tx: unknown) => Promise<T>) => other.connected.transaction(body, level)
      const seesCommits = level === undefined || level === 'read committed' || engine.engine !== 'postgres'

      it('holds all until the commit, each once, in byte order, and again the same', async () => {
        const names = freshNames(5)
        const [first, second] = [names[1]!, names[3]!]
        const before = new Map<string, bigint>()
        for (const time of ['new', 'known']) {
          const holds = await inTransaction(async (tx) => {
            const within = locks.within(tx)
            const single = await within.acquire(second)
            const holds = await within.acquireAll([...names].reverse().concat(first))
            expect(holds[3]!.token, time).toBeGreaterThanOrEqual(single.token)
            const again = await within.acquireAll(names)
            // Where SQLite's transactions are all one handle, what it has is taken once more.
            if (engine.engine !== 'sqlite') {
              expect(holds[3]).toEqual(single)
              expect(again).toEqual(holds)
              expect(await within.acquire(first)).toEqual(holds[1])
            }
            if (concurrent) expect(await held(names)).toEqual(names.map(() => true))
            return again
          })
          expect(holds.map(({ name }) => name)).toEqual(names)
          expect(await held(names)).toEqual(names.map(() => false))
          for (const { name, token } of holds) {
            expect(token).toBeGreaterThan(before.get(name) ?? 0n)
            const lease = await other.locks.acquire(name)
            expect(lease.token).toBeGreaterThan(token)
            before.set(name, lease.token)
            await lease.release()
          }
        }
      })

      it('holds none after a rollback', async () => {
        const names = freshNames()
        const undo = new Error('undo')
        const rolledBack = inTransaction(async (tx) => {
          await locks.within(tx).acquireAll(names)
          throw undo
        })
        await expect(rolledBack).rejects.toBe(undo)
        expect(await held(names)).toEqual(names.map(() => false))
        await inTransaction(async (tx) => expect(await locks.within(tx).acquireAll(names)).toHaveLength(3))
      })

      it('refuses what is no list of 1 to 1,000 names', async () => {
        const names = Array.from({ length: 1001 }, (_, index) => `name ${index}`)
        await inTransaction(async (tx) => {
          for (const wrong of [[], names, 'name', null, ['name', ''], [42]]) {
            const refused = expect(locks.within(tx).acquireAll(wrong as string[])).rejects
            await refused.toMatchObject({ code: 'INVALID_ARGUMENT' })
          }
          await locks.within(tx).acquireAll(names.slice(0, 2))
        })
      })

      it('gives up when its time is over, and the transaction goes on', async () => {
        const names = freshNames()
        const lease = await other.locks.acquire(names[1]!)
        await inTransaction(async (tx) => {
          const late = expect(locks.within(tx).acquireAll(names, { wait: 200 })).rejects
          await late.toMatchObject({ code: 'LOCK_TIMEOUT', lock: names[1] })
          await locks.within(tx).acquire(names[2]!)
        })
        expect(await lease.release()).toBe(true)
        // What was handed to it as it left goes on a moment later.
        await eventually(async () => expect(await held(names)).toEqual([false, false, false]))
      })

      itIf(concurrent && seesCommits)(
        'waits for the lease or the transaction that has one, holding those before',
        async () => {
          const [first, second, third] = freshNames() as [string, string, string]
          const lease = await other.locks.acquire(second)
          const commit = await openTransaction(other.connected, async (theirs) => {
            await other.locks.within(theirs).acquire(third)
          })
          const waiting = inTransaction(async (tx) => {
            const holds = await locks.within(tx).acquireAll([first, second, third])
            expect(await held([first, second, third])).toEqual([true, true, true])
            return holds
          })
          waiting.catch(() => undefined)
          await untilWaiting(other.locks, second)
          expect(await held([first])).toEqual([true])
          await lease.release()
          await eventually(async () => expect(await other.locks.inspect(second)).toBeNull())
          await commit()
          expect(await waiting).toHaveLength(3)
          expect(await held([first, second, third])).toEqual([false, false, false])
        },
      )

      itIf(concurrent && seesCommits)('waits for a guard that is open, though its lease has run out', async () => {
        const names = freshNames()
        const lease = await other.locks.acquire(names[1]!, { ttl: '900ms', renew: false })
        const order: string[] = []
        const commit = await openTransaction(other.connected, async (theirs) => lease.guard(theirs))
        await eventually(() => expect(lease.isHeld()).toBe(false))
        await sleep(200)
        const all = inTransaction(async (tx) => {
          await locks.within(tx).acquireAll(names)
          order.push('all')
        })
        await sleep(200)
        order.push('guarded')
        await commit()
        await all
        expect(order).toEqual(['guarded', 'all'])
      })

      itIf(concurrent && seesCommits)('does not pass a transaction that waits already', async () => {
        const [first, second] = freshNames() as [string, string]
        const order: string[] = []
        const commit = await openTransaction(open.connected, async (tx) => {
          await locks.within(tx).acquire(second)
        })
        const one = inOther(async (tx) => {
          await other.locks.within(tx).acquire(second)
          order.push('one')
        })
        await sleep(200)
        const both = inOther(async (tx) => {
          await other.locks.within(tx).acquireAll([first, second])
          order.push('both')
        })
        await sleep(200)
        await commit()
        await Promise.all([one, both])
        expect(order).toEqual(['one', 'both'])
      })

      itIf(concurrent && engine.engine === 'postgres')(
        'leaves a lock to a transaction that is about to take it',
        async () => {
          const names = freshNames()
          await (await other.locks.acquireAll(names)).release()
          const key = `hashtextextended('rowlock_locks'::regclass::oid || ' ' || '${names[1]}', 7239615)`
          const end = await openTransaction(other.connected, (theirs) =>
            other.connected.sql(`select pg_advisory_xact_lock(${key})::text`, theirs),
          )
          await inTransaction(async (tx) => {
            const late = expect(locks.within(tx).acquireAll(names, { wait: 200 })).rejects
            await late.toMatchObject({ code: 'LOCK_TIMEOUT', lock: names[1] })
          })
          await end()
        },
      )

      itIf(concurrent)('never waits in a circle, whatever the orders and the overlaps, beside leases', async () => {
        const names = freshNames(5)
        const inside = new Set<string>()
        const enter = async (taken: readonly string[]) => {
          for (const name of taken) {
            expect(inside.has(name)).toBe(false)
            inside.add(name)
          }
          await sleep(Math.random() * 3)
          for (const name of taken) inside.delete(name)
        }
        const some = () => {
          const wanted = names.filter(() => Math.random() < 0.5).sort(() => Math.random() - 0.5)
          return wanted.length === 0 ? names : wanted
        }
        let aborted = 0
        const transact = async (on: typeof inTransaction, by: Locks<unknown>) => {
          for (let turn = 0; turn < 5; ) {
            try {
              await on(async (tx) => enter((await by.within(tx).acquireAll(some())).map(({ name }) => name)))
              turn++
            } catch (error) {
              if (!isTransactionAborted(error)) throw error
              aborted++
            }
          }
        }
        const lease = async (by: Locks<unknown>) => {
          for (let turn = 0; turn < 5; turn++) {
            const leases = await by.acquireAll(some())
            await enter(leases.leases.map(({ name }) => name))
            await leases.release()
          }
        }
        await Promise.all([
          ...Array.from({ length: 3 }, () => [transact(inTransaction, locks), transact(inOther, other.locks)]).flat(),
          lease(locks),
          lease(other.locks),
        ])
        // A snapshot can be too old, and InnoDB may have locked the row of a lease that came first.
        if (engine.engine === 'postgres' && seesCommits) expect(aborted).toBe(0)
        // What was handed to a transaction that the engine has ended then runs out a second later.
        await eventually(async () => expect(await held(names)).toEqual(names.map(() => false)))
      })

      itIf(concurrent && engine.engine !== 'memory')('lets the engine find a circle of transactions', async () => {
        const [first, second] = freshNames() as [string, string]
        const outcome = async (work: Promise<unknown>) =>
          work.then(
            () => 'done',
            (error: unknown) => error,
          )
        let oneHas!: () => void
        const oneHolds = new Promise<void>((resolve) => {
          oneHas = resolve
        })
        let otherHas!: () => void
        const otherHolds = new Promise<void>((resolve) => {
          otherHas = resolve
        })
        const outcomes = await Promise.all([
          outcome(
            inTransaction(async (tx) => {
              await locks.within(tx).acquire(second)
              oneHas()
              await otherHolds
              await locks.within(tx).acquireAll([first, second])
            }),
          ),
          outcome(
            inOther(async (tx) => {
              await other.locks.within(tx).acquireAll([first])
              otherHas()
              await oneHolds
              await other.locks.within(tx).acquireAll([first, second])
            }),
          ),
        ])
        expect(outcomes.filter((each) => each !== 'done').length).toBeGreaterThan(0)
        for (const each of outcomes) if (each !== 'done') expect(isTransactionAborted(each)).toBe(true)
      })

      it('takes a thousand', async () => {
        const names = freshNames(1000)
        for (const time of ['new', 'known']) {
          const holds = await inTransaction((tx) => locks.within(tx).acquireAll(names))
          expect(
            holds.map(({ name }) => name),
            time,
          ).toEqual(names)
          expect(new Set(holds.map(({ name, token }) => name + token)).size).toBe(1000)
        }
      })
    })

    itIf(concurrent && engine.engine !== 'memory')('twelve transactions take a thousand each', async () => {
      const commits: (() => Promise<void>)[] = []
      const large = await open.connect({ poolSize: 14 })
      const on = createLocks(large.adapter, LONG)
      const sets = Array.from({ length: 12 }, () => freshNames(1000))
      for (const names of sets) {
        commits.push(await openTransaction(large, (tx) => on.within(tx).acquireAll(names)))
      }
      if (engine.engine === 'postgres') {
        const [row] = await open.connected.sql(
          "select count(*)::int as advisory from pg_locks where locktype = 'advisory'",
        )
        // Sessions that listen have one each.
        expect(Number(row?.advisory)).toBeLessThan(100)
      }
      for (const names of sets) expect(await held([names[0]!, names[999]!])).toEqual([true, true])
      for (const commit of commits) await commit()
      await on.close()
    })
  })
}

const itIf = (condition: boolean) => it.runIf(condition)

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
