import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { createLocks, type Lease, type LockEvent, LockLostError, type Locks } from '../../src/index.ts'
import type { Connected, Isolation } from '../adapters.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import type { OrmConnected, OrmEngine } from './engines.ts'

/** Long enough for a lease to stay held on a loaded machine. */
const LONG = { ttl: '20s', wait: '15s' } as const

/**
 * What rowlock promises through any ORM: leases, guards, and locks within the ORM's own transactions. The tests of one engine run
 * in turn, engines side by side, since most of the time is spent waiting.
 */
export function ormSuite(engine: OrmEngine): void {
  // SQLite has one writer: while a transaction has written, others can neither take nor release a lock.
  const manyWriters = engine.engine !== 'sqlite'
  // Nothing tells one transaction on SQLite from the next.
  const servesAll = engine.engine === 'sqlite' && /^(Drizzle|TypeORM)\b/.test(engine.name)

  // Prisma's clients are compiled when they are loaded: for others beside that, the process stands still for a second.
  describe(engine.name, { concurrent: !engine.name.startsWith('Prisma') }, () => {
    let opened: OpenEngine
    let connected: Connected & OrmConnected
    let locks: Locks<unknown>
    /** As another process would have it. */
    let others: Locks<unknown>

    beforeAll(async () => {
      opened = await engine.open()
      connected = opened.connected as Connected & OrmConnected
      locks = createLocks(connected.adapter, LONG)
      others = await opened.locks(LONG)
      await connected.sql('create table ledger (entry varchar(100) not null)')
    })

    afterAll(async () => {
      await locks.close()
      await opened.close()
    })

    const write = (entry: string, tx: unknown) => connected.sql(`insert into ledger (entry) values ('${entry}')`, tx)
    const written = async (entry: string) =>
      (await connected.sql(`select entry from ledger where entry = '${entry}'`)).length

    describe.sequential('leases', () => {
      it('are migrated once', async () => {
        expect(await locks.migrate()).toEqual([])
      })

      it('exclude each other until they are released, with rising tokens', async () => {
        const name = freshName()
        const lease = await locks.acquire(name)
        expect(await others.tryAcquire(name)).toBeNull()
        expect(await others.inspect(name)).toMatchObject({ token: lease.token, owner: lease.owner })
        await lease.extend('40s')
        expect(lease.remainingMs()).toBeGreaterThan(25_000)
        expect(await lease.release()).toBe(true)
        const next = await others.acquire(name)
        expect(next.token).toBeGreaterThan(lease.token)
        await next.release()
      })

      it('outlive their ttl while they are renewed', async () => {
        const events = recordEvents(locks)
        // Longer than this thread is busy when all tests begin at once.
        const lease = await locks.acquire(freshName(), { ttl: '8s' })
        const acquiredAt = performance.now()
        await eventually(() => expect(performance.now() - acquiredAt).toBeGreaterThan(8500))
        expect(lease.isHeld()).toBe(true)
        expect(await others.tryAcquire(lease.name)).toBeNull()
        expect(events).toContainEqual(expect.objectContaining({ type: 'renewed', name: lease.name }))
        expect(await lease.release()).toBe(true)
      })

      it('are taken over when they have expired, with a higher token', async () => {
        const events = recordEvents(others)
        const lease = await locks.acquire(freshName(), { ttl: '200ms', renew: false })
        const next = await others.acquire(lease.name)
        expect(next.token).toBeGreaterThan(lease.token)
        expect(events).toContainEqual(expect.objectContaining({ type: 'takeover', name: lease.name }))
        expect(lease.isHeld()).toBe(false)
        await next.release()
      })

      it('say that the tables are missing, outside and inside of a transaction', async () => {
        const unmigrated = createLocks(connected.adapter, { ...LONG, tablePrefix: 'missing_' })
        const missing = { code: 'NOT_MIGRATED', message: expect.stringContaining('migrate') }
        await expect(unmigrated.acquire(freshName())).rejects.toMatchObject(missing)
        await expect(
          connected.transaction(async (tx) => void (await unmigrated.within(tx).tryAcquire(freshName()))),
        ).rejects.toMatchObject(missing)
        await unmigrated.close()
      })
    })

    describe.sequential('guards', () => {
      it('let a write commit under a lease that stands', async () => {
        const lease = await locks.acquire(freshName())
        await connected.transaction(async (tx) => {
          await lease.guard(tx)
          await write(lease.name, tx)
        })
        expect(await written(lease.name)).toBe(1)
        expect(await lease.release()).toBe(true)
      })

      it('of several leases let a write commit while all stand, and refuse it when one is lost', async () => {
        const name = freshName()
        const leases = await locks.acquireAll([`${name}:a`, `${name}:b`], { renew: false })
        await connected.transaction(async (tx) => {
          await leases.guard(tx)
          await write(name, tx)
        })
        expect(await written(name)).toBe(1)
        expect(await others.forceRelease(`${name}:b`)).toBe(true)
        const commit = connected.transaction(async (tx) => {
          await write(name, tx)
          await leases.guard(tx)
        })
        await expect(commit).rejects.toMatchObject({ code: 'LOCK_LOST', lock: `${name}:b` })
        expect(await written(name)).toBe(1)
        expect(leases.isHeld()).toBe(false)
        await (await others.acquireAll([`${name}:a`, `${name}:b`])).release()
      })

      it('refuse a stale holder, and its write is rolled back', async () => {
        const lease = await stale()
        expect(lease.isHeld()).toBe(true)
        const commit = connected.transaction(async (tx) => {
          await write(lease.name, tx)
          await lease.guard(tx)
        })
        await expect(commit).rejects.toMatchObject({ code: 'LOCK_LOST', lock: lease.name })
        expect(await written(lease.name)).toBe(0)
        expect(lease.isHeld()).toBe(false)
      })

      it('go along with a statement, whose values reach it and whose rows come back', async () => {
        const lease = await locks.acquire(freshName())
        const rows = await connected.transaction(async (tx) => {
          await write(`${lease.name}!`, tx)
          return lease.guarded(tx, entriesLike(lease.name, '%!'))
        })
        expect(rows.map(({ entry }) => entry)).toEqual([`${lease.name}!`])
        expect(await lease.release()).toBe(true)
      })

      it('refuse a stale statement, and roll back what was before it', async () => {
        const lease = await stale()
        const commit = connected.transaction(async (tx) => {
          await write(lease.name, tx)
          await lease.guarded(tx, entriesLike(lease.name, '%'))
        })
        await expect(commit).rejects.toMatchObject({ code: 'LOCK_LOST' })
        expect(await written(lease.name)).toBe(0)
      })

      it.runIf(manyWriters)('keep everybody else out until the commit, even past the expiry', async () => {
        const lease = await locks.acquire(freshName(), { ttl: '400ms', renew: false })
        await connected.transaction(async (tx) => {
          await lease.guard(tx)
          await eventually(() => expect(lease.isHeld()).toBe(false))
          await sleep(100)
          expect(await others.tryAcquire(lease.name)).toBeNull()
          await write(lease.name, tx)
        })
        expect(await written(lease.name)).toBe(1)
        await (await others.acquire(lease.name)).release()
      })

      /** A lease that somebody has ended, and whose holder does not know yet. */
      async function stale(): Promise<Lease<unknown>> {
        const lease = await locks.acquire(freshName(), { renew: false })
        expect(await others.forceRelease(lease.name)).toBe(true)
        return lease
      }
    })

    describe.sequential('within a transaction', () => {
      it('a lock is held until the commit', async () => {
        const name = freshName()
        const { token } = await connected.transaction(async (tx) => {
          const hold = await locks.within(tx).acquire(name)
          if (manyWriters) expect(await others.tryAcquire(name)).toBeNull()
          await write(name, tx)
          return hold
        })
        expect(await written(name)).toBe(1)
        const lease = await others.acquire(name, { wait: 0 })
        expect(lease.token).toBeGreaterThan(token)
        await lease.release()
      })

      it('several locks are held until the commit, also a thousand', async () => {
        const name = freshName()
        const names = [`${name}:b`, `${name}:a`, `${name}:c`]
        for (const time of ['new', 'known']) {
          const holds = await connected.transaction(async (tx) => {
            const holds = await locks.within(tx).acquireAll(names)
            if (manyWriters) for (const each of names) expect(await others.tryAcquire(each)).toBeNull()
            await write(`${name} ${time}`, tx)
            return holds
          })
          expect(holds.map((hold) => hold.name)).toEqual([...names].sort())
          expect(await written(`${name} ${time}`)).toBe(1)
        }
        const many = Array.from({ length: 1000 }, (_, index) => `${name}:${index}`)
        const holds = await connected.transaction((tx) => locks.within(tx).acquireAll(many))
        expect(new Set(holds.map((hold) => hold.name))).toEqual(new Set(many))
        const leases = await others.acquireAll(names, { wait: 0 })
        await leases.release()
      })

      it('a lock is not held after a rollback, nor its write there', async () => {
        const name = freshName()
        const undo = new Error('undo')
        const rolledBack = connected.transaction(async (tx) => {
          await locks.within(tx).acquire(name)
          await write(name, tx)
          throw undo
        })
        await expect(rolledBack).rejects.toBe(undo)
        expect(await written(name)).toBe(0)
        await (await others.acquire(name, { wait: 0 })).release()
      })

      it('a try for a lock that is held answers null, and the transaction goes on', async () => {
        const lease = await others.acquire(freshName())
        await connected.transaction(async (tx) => {
          expect(await locks.within(tx).tryAcquire(lease.name)).toBeNull()
          await write(lease.name, tx)
        })
        expect(await written(lease.name)).toBe(1)
        expect(await lease.release()).toBe(true)
      })

      it('a wait for a lease that is held times out, and the transaction goes on', async () => {
        const lease = await others.acquire(freshName())
        await connected.transaction(async (tx) => {
          await expect(locks.within(tx).acquire(lease.name, { wait: 200 })).rejects.toMatchObject({
            code: 'LOCK_TIMEOUT',
          })
          await write(lease.name, tx)
        })
        expect(await written(lease.name)).toBe(1)
        expect(await lease.release()).toBe(true)
      })

      it.runIf(manyWriters)('a wait for another transaction times out, and the transaction goes on', async () => {
        const name = freshName()
        const elsewhere = await opened.connect()
        await elsewhere.transaction(async (theirs) => {
          await others.within(theirs).acquire(name)
          await connected.transaction(async (tx) => {
            expect(await locks.within(tx).tryAcquire(name)).toBeNull()
            await expect(locks.within(tx).acquire(name, { wait: 1200 })).rejects.toMatchObject({
              code: 'LOCK_TIMEOUT',
            })
            await write(name, tx)
          })
        })
        expect(await written(name)).toBe(1)
      })

      it.runIf(manyWriters)('a wait is served when the lease, or the other transaction, ends', async () => {
        const name = freshName()
        const lease = await others.acquire(name)
        const order: string[] = []
        const held = (who: string) =>
          connected.transaction(async (tx) => {
            await locks.within(tx).acquire(name)
            order.push(`${who} in`)
            await sleep(100)
            order.push(`${who} out`)
          }, 'read committed')
        const both = Promise.all([held('first'), held('second')])
        await sleep(200)
        expect(order).toEqual([])
        await lease.release()
        await both
        expect(order.map((entry) => entry.split(' ')[1])).toEqual(['in', 'out', 'in', 'out'])
      })

      it('a name that is taken again is the same hold, until it is taken in the next one', async () => {
        const name = freshName()
        const inOne = async () =>
          connected.transaction(async (tx) => {
            const first = await locks.within(tx).acquire(name)
            const { token, owner } = await locks.within(tx).lease(name, { ttl: 10 })
            if (servesAll) expect(token).toBeGreaterThan(first.token)
            else expect(await locks.within(tx).acquire(name)).toEqual({ name, token: first.token })
            expect(owner).toHaveLength(32)
            return token
          })
        const token = await inOne()
        await (await others.acquire(name)).release()
        expect(await inOne()).toBeGreaterThan(token)
      })

      it('a lease starts with the commit', async () => {
        const name = freshName()
        const pending = await connected.transaction(async (tx) => {
          const pending = await locks.within(tx).lease(name)
          await write(name, tx)
          return pending
        })
        const lease = await pending.confirm()
        expect(lease).toMatchObject({ name, token: pending.token, owner: pending.owner })
        expect(await others.tryAcquire(name)).toBeNull()
        expect(await lease.release()).toBe(true)
      })

      it('a lease does not start with a rollback', async () => {
        const name = freshName()
        const rolledBack: { confirm(): Promise<unknown> }[] = []
        const transaction = connected.transaction(async (tx) => {
          rolledBack.push(await locks.within(tx).lease(name))
          throw new Error('undo')
        })
        await expect(transaction).rejects.toThrow('undo')
        await expect(rolledBack[0]!.confirm()).rejects.toBeInstanceOf(LockLostError)
        await (await others.acquire(name, { wait: 0 })).release()
      })

      it('a lease is released with the commit', async () => {
        const lease = await locks.acquire(freshName())
        await connected.transaction(async (tx) => {
          expect(await lease.release(tx)).toBe(true)
          await write(lease.name, tx)
        })
        expect(await written(lease.name)).toBe(1)
        await (await others.acquire(lease.name, { wait: 0 })).release()
      })

      it('a lease is not released with a rollback', async () => {
        const lease = await locks.acquire(freshName())
        const rolledBack = connected.transaction(async (tx) => {
          await lease.release(tx)
          throw new Error('undo')
        })
        await expect(rolledBack).rejects.toThrow('undo')
        expect(await others.tryAcquire(lease.name)).toBeNull()
        await lease.release()
        await (await others.acquire(lease.name, { wait: 0 })).release()
      })

      it('what is done once in it is done with its commit, and checkpoints are left with it', async () => {
        const key = freshName()
        for (const [value, seen] of [
          [undefined, undefined],
          [{ text: 'né "quoted" \\ ? $1 :name 🔒' }, { text: 'né "quoted" \\ ? $1 :name 🔒' }],
        ]) {
          const name = `${key}:${typeof value}`
          const run = (body: () => unknown) =>
            connected.transaction(async (tx) => locks.within(tx).once(name, { keepFor: '1h' }, body))
          const failed = run(() => Promise.reject(new Error('undo')))
          await expect(failed).rejects.toThrow('undo')
          expect(await run(() => value)).toEqual({ ran: true, value })
          expect(await run(() => 'again')).toEqual({ ran: false, value: seen })
          expect(await others.once(name, {}, () => 'again')).toEqual({ ran: false, value: seen })
        }
        const lease = await locks.acquire(key)
        await connected.transaction(async (tx) => {
          await lease.checkpoint({ cursor: 1 }, tx)
          await write(key, tx)
        })
        await lease.checkpoint({ cursor: 2 })
        await lease.release()
        const next = await others.acquire(key, { metadata: ['next'] })
        expect(next.payload).toEqual({ cursor: 2 })
        expect((await locks.inspect(key))!.holders[0]!.metadata).toEqual(['next'])
        await next.release()
        expect(await locks.once(`${key}:once`, {}, () => [1])).toEqual({ ran: true, value: [1] })
        expect(await others.once(`${key}:once`, {}, () => [2])).toEqual({ ran: false, value: [1] })
      })

      it('the transaction may be given as a function that finds it', async () => {
        const [leased, released, held] = [freshName(), freshName(), freshName()]
        const lease = await locks.acquire(leased)
        const toRelease = await locks.acquire(released)
        await connected.transaction(async (tx) => {
          await lease.guard(() => tx)
          await toRelease.release(() => tx)
          await locks.within(() => tx).acquire(held)
          await write(held, tx)
        })
        expect(await written(held)).toBe(1)
        expect(await others.inspect(released)).toBeNull()
        expect(await lease.release()).toBe(true)
      })
    })

    describe.sequential.each(engine.isolations)('at %s', (isolation: Isolation) => {
      it('guards and holds commit together with their write', async () => {
        const lease = await locks.acquire(freshName())
        const held = freshName()
        await connected.transaction(async (tx) => {
          await lease.guard(tx)
          await locks.within(tx).acquire(held)
          await write(held, tx)
        }, isolation)
        expect(await written(held)).toBe(1)
        expect(await lease.release()).toBe(true)
      })

      it('a guard refuses after a takeover that the snapshot does not show', async () => {
        const lease = await locks.acquire(freshName(), { renew: false })
        const successors: Lease<unknown>[] = []
        const commit = connected.transaction(async (tx) => {
          await connected.sql('select count(*) as entries from ledger', tx)
          expect(await others.forceRelease(lease.name)).toBe(true)
          successors.push(await others.acquire(lease.name))
          await lease.guard(tx)
          await write(lease.name, tx)
        }, isolation)
        await expect(commit).rejects.toMatchObject({ code: 'LOCK_LOST', lock: lease.name })
        expect(await written(lease.name)).toBe(0)
        // The guard may have locked the row, so not before the transaction is over.
        expect(await successors[0]?.release()).toBe(true)
      })
    })

    describe.sequential('a handle that is no open transaction', () => {
      const notTransactions: [string, () => unknown][] = [
        ["the ORM's own instance", () => connected.db],
        ['a function that finds none', () => () => undefined],
        ['an empty object', () => ({})],
        ['text', () => 'tx'],
        ['null', () => null],
      ]

      it.each(notTransactions)('is refused: %s', async (_, handle) => {
        const lease = await locks.acquire(freshName())
        const refused = { code: 'INVALID_ARGUMENT' }
        await expect((async () => lease.guard(handle()))()).rejects.toMatchObject(refused)
        await expect((async () => lease.release(handle()))()).rejects.toMatchObject(refused)
        await expect((async () => locks.within(handle()).tryAcquire(freshName()))()).rejects.toMatchObject(refused)
        expect(lease.isHeld()).toBe(true)
        expect(await lease.release()).toBe(true)
      })

      const ends = { commit: undefined, rollback: new Error('undo') }
      it.each(Object.entries(ends))(
        'is refused, and does nothing: a transaction that has ended by %s',
        async (_, end) => {
          const lease = await locks.acquire(freshName())
          const name = freshName()
          const handles: unknown[] = []
          const transaction = connected.transaction(async (tx) => {
            await write(name, tx)
            handles.push(tx)
            if (end !== undefined) throw end
          })
          if (end === undefined) await transaction
          else await expect(transaction).rejects.toBe(end)
          const ended = () => handles[0]
          const refused = { code: 'INVALID_ARGUMENT' }
          const query = { text: `insert into ledger (entry) values ('${lease.name}')`, values: [] }
          await expect((async () => lease.guard(ended))()).rejects.toMatchObject(refused)
          await expect(lease.guarded(ended, query)).rejects.toMatchObject(refused)
          await expect((async () => locks.within(ended).tryAcquire(name))()).rejects.toMatchObject(refused)
          await expect(locks.within(ended).lease(name)).rejects.toMatchObject(refused)
          await expect(lease.release(ended)).rejects.toMatchObject(refused)
          expect(await written(lease.name)).toBe(0)
          expect(await others.inspect(name)).toBeNull()
          expect(await others.inspect(lease.name)).toMatchObject({ token: lease.token })
          expect(await lease.release()).toBe(true)
        },
      )
    })

    it.sequential('does not hang when an open transaction has the only connection', async () => {
      const only = await opened.connect({ poolSize: 1 })
      const onOne = createLocks(only.adapter, { ...LONG, statementTimeout: '1s' })
      const lease = await onOne.acquire(freshName())
      const name = freshName()
      await only.transaction(async (tx) => {
        await lease.guard(tx)
        // Outside of the transaction: there is nothing left to ask the database with, unless it is a file.
        const asked = expect(onOne.inspect(name))
        if (engine.engine === 'sqlite' && !('single' in only.adapter && only.adapter.single))
          await asked.resolves.toBeNull()
        else await asked.rejects.toMatchObject({ code: 'DATABASE' })
        await only.sql(`insert into ledger (entry) values ('${name}')`, tx)
      })
      expect(await written(name)).toBe(1)
      await lease.release()

      await only.transaction(async (tx) => {
        const hold = await onOne.within(tx).tryAcquire(name)
        expect(hold?.token).toBeGreaterThan(0n)
      })
      await onOne.close()
    })

    function entriesLike(name: string, suffix: string): { text: string; values: unknown[] } {
      const [first, second] = engine.engine === 'postgres' ? ['$1', '$2'] : ['?', '?']
      const concat = engine.engine === 'mysql' ? `concat(${first}, ${second})` : `${first} || ${second}`
      return { text: `select entry from ledger where entry like ${concat}`, values: [name, suffix] }
    }
  })
}

function recordEvents(locks: Locks<unknown>): LockEvent[] {
  const events: LockEvent[] = []
  locks.on((event) => events.push(event))
  return events
}

function eventually(check: () => void): Promise<void> {
  return vi.waitFor(check, { timeout: 15_000, interval: 20 })
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
