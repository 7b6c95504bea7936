import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import type { Result, SqlAdapter, Statement } from '../../src/adapters/adapter.ts'
import { OwnConnection } from '../../src/adapters/own-connection.ts'
import { DatabaseError } from '../../src/base/errors.ts'
import { postgresStore } from '../../src/engines/postgres/store.ts'
import { watchFile } from '../../src/process/wake/watch.ts'
import {
  type Attempt,
  type AttemptInResult,
  type AttemptResult,
  CONFIRM_MS,
  type EnqueueResult,
  EXCLUSIVE,
  type ExclusiveAttempt,
  type Grant,
  type Hold,
  type Holder,
  type LockView,
  type NewTicket,
  type Promotion,
  type ReleaseResult,
  SHARED,
  type Store,
  toHold,
} from '../../src/protocol/store.ts'
import type { Connected, Isolation } from '../adapters.ts'
import { eventually, sleep } from '../contract/harness.ts'
import { freshName, type OpenEngine, type TestEngine } from '../engines.ts'
import { storeOn, withoutCheckpoints } from './store-on.ts'

const LONG_MS = 60_000
const SHORT_MS = 150
const MANY = 1_000_000
/** Stores may have statements for one hold, and others for many. */
const ALONE_OR_NOT = [
  { how: 'alone', others: 0 },
  { how: 'with others', others: 2 },
]

const anOwner = () => randomBytes(16).toString('hex')
const ALIKE = Array<string>(2).fill(anOwner())
const OWNERS = [
  { whom: 'attempts of one kind', attemptsOn: (names: readonly string[]) => alike(names) },
  {
    whom: 'attempts with owners of their own',
    attemptsOn: (names: readonly string[]) => names.map((name) => attempt({ name })),
  },
]

type Subject = Pick<TestEngine, 'engine' | 'sessions' | 'open'>

/** What each store promises about its queue, asked of the store itself. */
export function queueSuite(engine: Subject): void {
  const { one, two, inTransaction, inOther, twoAfter, twoOnItsOwnConnection } = peersOn(engine)
  /** Runs `body` while a transaction of process one has the hold of the lock guarded. */
  const whileGuarded = (hold: Hold, body: () => Promise<void>) =>
    inTransaction(async (tx) => {
      expect(await one.store.guard(tx, [{ ...hold, ttlMs: LONG_MS }])).toEqual(['stands'])
      await body()
    })

  describe('acquire', () => {
    it.each(OWNERS)(
      'takes what is free and not waited for, and answers in order, for $whom',
      async ({ attemptsOn }) => {
        const [fresh, released, expired, held, awaited] = freshNames(5)
        await one.release(await one.acquire(released!))
        await one.acquire(expired!, { ttlMs: SHORT_MS })
        await one.acquire(held!, { holder: 'the holder' })
        await one.acquire(awaited!, { ttlMs: SHORT_MS })
        await two.arrive(awaited!)
        await one.untilFree(expired!, awaited!)

        const names = [held, awaited, fresh, released, expired] as string[]
        const results = await two.store.acquire(attemptsOn(names))
        expect(results).toEqual([
          { granted: false, holders: ['the holder'], queued: false },
          { granted: false, holders: [], queued: true },
          { granted: true, token: expect.any(BigInt), takeover: false },
          { granted: true, token: expect.any(BigInt), takeover: false },
          { granted: true, token: expect.any(BigInt), takeover: true },
        ])
        expect(await two.store.poll([awaited!])).toMatchObject([{ holders: [], promotable: true }])
      },
    )

    it.each([
      { terms: 'the same terms', ttls: [LONG_MS, LONG_MS], holders: ['us', 'us'], owners: [anOwner(), anOwner()] },
      { terms: 'the same terms, together', ttls: [LONG_MS, LONG_MS], holders: ['us', 'us'], owners: ALIKE },
      { terms: 'terms of their own', ttls: [LONG_MS, LONG_MS / 2], holders: ['us', 'them'], owners: ALIKE },
    ])('gives several who want $terms what each asked for', async ({ ttls, holders, owners }) => {
      const names = freshNames(2)
      for (const name of names) await one.release(await one.acquire(name))
      const asked = names.map((name, at) =>
        attempt({ name, ttlMs: ttls[at]!, holder: holders[at]!, owner: owners[at]! }),
      )
      const results = await two.store.acquire(asked)
      const views = await two.store.poll(names)
      for (const [at, { name, owner }] of asked.entries()) {
        expect(results[at]).toMatchObject({ granted: true, takeover: false })
        const { token } = results[at] as { token: bigint }
        const holder = views.find((view) => view.name === name)?.holders[0]
        expect(holder).toMatchObject({ owner, token, label: holders[at] })
        expect(holder!.remainingMs).toBeLessThanOrEqual(ttls[at]!)
        expect(holder!.remainingMs).toBeGreaterThan(ttls[at]! - LONG_MS / 2)
      }
    })

    it.each(ALONE_OR_NOT)(
      'answers an attempt that is repeated $how with the same token and a fresh expiry',
      async ({ others }) => {
        const [name, ...rest] = freshNames(1 + others) as [string, ...string[]]
        await one.acquire(name, { ttlMs: SHORT_MS })
        await one.untilFree(name)
        const asked = alike([name, ...rest], { ttlMs: 20_000 })
        const first = await two.store.acquire(asked)
        const again = await two.store.acquire(asked.map((each) => ({ ...each, ttlMs: LONG_MS })))
        expect(first).toMatchObject([{ granted: true, takeover: true }, ...rest.map(() => ({ takeover: false }))])
        expect(again).toEqual(first)
        expect((await two.poll(name)).holder?.remainingMs).toBeGreaterThan(30_000)
      },
    )

    it.each([
      { how: 'alone', others: 0, attemptsOn: alike },
      { how: 'with others that are alike', others: 2, attemptsOn: alike },
      { how: 'with others of other owners', others: 2, attemptsOn: OWNERS[1]!.attemptsOn },
    ])('repeats an attempt $how although others wait by now', async ({ others, attemptsOn }) => {
      const [name, ...rest] = freshNames(1 + others) as [string, ...string[]]
      const asked = attemptsOn([name, ...rest])
      const first = await one.store.acquire(asked)
      await two.arrive(name)
      expect(await one.store.acquire(asked)).toEqual(first)
      expect((await one.poll(name)).tickets).toHaveLength(1)
    })

    it.each(ALONE_OR_NOT)('does not barge $how when a lease has run out and somebody waits', async ({ others }) => {
      const [name, ...rest] = freshNames(1 + others) as [string, ...string[]]
      for (const each of rest) await one.release(await one.acquire(each))
      await one.acquire(name, { ttlMs: SHORT_MS })
      const ticket = await two.arrive(name)
      await one.untilFree(name)
      expect(await one.store.acquire(alike([name, ...rest]))).toEqual([
        { granted: false, holders: [], queued: true },
        ...rest.map(() => ({ granted: true, token: expect.any(BigInt), takeover: false })),
      ])
      expect(await two.promote(name)).toMatchObject({ outcome: 'handed over' })
      await expectHandedTo(two, name, ticket)
    })
  })

  describe('acquireIn', () => {
    it('does not barge, and leaves the transaction usable', async () => {
      const [awaited, fresh] = freshNames(2)
      await one.acquire(awaited!, { ttlMs: SHORT_MS })
      await two.arrive(awaited!)
      await one.untilFree(awaited!)
      await inTransaction(async (tx) => {
        for (const ttlMs of [null, LONG_MS]) {
          const refused = await one.store.acquireIn(tx, attempt({ name: awaited!, ttlMs }), 0)
          expect(refused).toMatchObject({ granted: false, holders: [], queued: true })
        }
        expect(await one.store.acquireIn(tx, attempt({ name: fresh!, ttlMs: null }), 0)).toMatchObject({
          granted: true,
        })
      })
      expect((await one.poll(awaited!)).promotable).toBe(true)
    })

    it('does not touch a lock that is held', async () => {
      const name = freshName()
      const hold = await two.acquire(name, { holder: 'the holder' })
      await inTransaction(async (tx) => {
        const refused = await one.store.acquireIn(tx, attempt({ name }), 0)
        expect(refused).toMatchObject({ granted: false, holders: ['the holder'], queued: false })
      })
      expect(await two.release(hold)).toMatchObject({ outcome: 'released' })
    })

    it('comes before transactions that wait for the end of leases', async (context) => {
      if (engine.engine === 'sqlite') return context.skip('there is no transaction beside one that waits')
      const name = freshName()
      await one.release(await one.acquire(name))
      await two.arrive(name, { transaction: true })
      await inTransaction(async (tx) => {
        expect(await one.store.acquireIn(tx, attempt({ name, ttlMs: null }), 0)).toMatchObject({ granted: true })
      })
    })

    it('does not judge by a snapshot from before the lock has changed', async (context) => {
      if (engine.engine !== 'postgres') return context.skip('what a transaction locks there it sees as it is')
      const name = freshName()
      const hold = await two.acquire(name)
      const late = inTransaction(async (tx) => {
        await one.store.query(tx, { text: 'select count(*) from rowlock_locks', values: [] })
        await two.release(hold)
        return one.store.acquireIn(tx, attempt({ name }), 0)
      }, 'repeatable read')
      await expect(late).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' })
    })

    it('answers the lease that the transaction has taken', async (context) => {
      if (engine.engine === 'sqlite') return context.skip('there a handle serves all transactions')
      const name = freshName()
      await inTransaction(async (tx) => {
        const first = await one.store.acquireIn(tx, attempt({ name }), 0)
        expect(first).toMatchObject({ granted: true })
        expect(await one.store.acquireIn(tx, attempt({ name, ttlMs: null }), 0)).toEqual(first)
      })
      expect((await two.poll(name)).holder).toMatchObject({ label: 'test' })
    })

    it('turns a hold that was handed over into one that ends with the transaction', async () => {
      const name = freshName()
      const holder = await one.acquire(name)
      const ticket = await one.arrive(name, { count: 2 })
      await two.release(holder)
      const handed = await handedTo(one, name, ticket)
      await inTransaction(async (tx) => {
        const taken = await one.store.acquireIn(tx, attempt({ name, owner: handed.owner, ttlMs: null }), 0)
        expect(taken).toEqual({ granted: true, owner: handed.owner, token: handed.token })
      })
      expect(await one.poll(name)).toMatchObject({ holder: null, promotable: true, tickets: [ticket] })
      await one.promote(name)
      expect((await handedTo(one, name, ticket)).token).toBeGreaterThan(handed.token)
    })

    it('leaves such a hold as it was if the transaction rolls back', async () => {
      const name = freshName()
      const holder = await one.acquire(name)
      const ticket = await one.arrive(name)
      await two.release(holder)
      const handed = await handedTo(one, name, ticket)
      await one.claim(handed)
      const undo = new Error('undo')
      const transaction = inTransaction(async (tx) => {
        await one.store.acquireIn(tx, attempt({ name, owner: handed.owner, ttlMs: null }), 0)
        throw undo
      })
      await expect(transaction).rejects.toBe(undo)
      expect((await one.poll(name)).holder).toMatchObject(handed)
    })
  })

  describe('acquireIn beside another transaction', () => {
    // On SQLite there is none.
    it.skipIf(engine.engine === 'sqlite')('names nobody if that one has locked what this one was handed', async () => {
      const name = freshName()
      const holder = await one.acquire(name)
      const ticket = await one.arrive(name)
      await two.release(holder)
      const handed = await handedTo(one, name, ticket)
      await whileGuarded(handed, () =>
        inTransaction(async (tx) => {
          const refused = await one.store.acquireIn(tx, attempt({ name, owner: handed.owner }), 0)
          expect(refused).toMatchObject({ granted: false, holders: [], queued: false })
        }),
      )
    })
  })

  describe('between two statements', () => {
    it('a lease that comes after the look is not passed over', async (context) => {
      if (engine.engine !== 'sqlite') return context.skip('only there an attempt looks first')
      const name = freshName()
      let hold: Hold | undefined
      const late = twoAfter(/^\s*insert/, async () => {
        hold = await one.acquire(name)
      })
      expect(await late.acquire([attempt({ name })])).toMatchObject([{ granted: false, queued: false }])
      expect((await two.poll(name)).holder).toMatchObject(hold!)
    })

    it('a lease that comes after the look of a transaction is not passed over', async (context) => {
      if (engine.engine !== 'mysql') return context.skip('only there a transaction looks from outside')
      const name = freshName()
      let hold: Hold | undefined
      const late = twoAfter(/^\s*(set statement .* for\s+)?update/, async () => {
        hold = await one.acquire(name)
      })
      const taking = inOther((tx) => late.acquireIn(tx, attempt({ name, ttlMs: null }), 0))
      await expect(taking).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' })
      expect((await one.poll(name)).holder).toMatchObject(hold!)
    })

    it('a lease that a transaction leaves behind is not passed over by one that has waited for it', async (context) => {
      if (engine.engine === 'sqlite') return context.skip('there is one transaction at a time')
      const name = freshName()
      let sent!: () => void
      const isSent = new Promise<void>((resolve) => {
        sent = resolve
      })
      const waiting = twoAfter(/within_1|max_(statement|execution)_time/i, async () => sent())
      let taking: Promise<AttemptInResult> | undefined
      const held = await inTransaction(async (tx) => {
        const result = await one.store.acquireIn(tx, attempt({ name }), 0)
        taking = inOther((second) => waiting.acquireIn(second, attempt({ name, ttlMs: null }), LONG_MS))
        taking.catch(() => undefined)
        if (engine.engine !== 'memory') await isSent
        return result
      })
      if (engine.engine === 'mysql') await expect(taking).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' })
      else expect(await taking).toMatchObject({ granted: false, holders: ['test'] })
      const { owner, token } = held as Extract<AttemptInResult, { granted: true }>
      expect((await one.poll(name)).holder).toMatchObject({ owner, token })
    })

    it.for(ALONE_OR_NOT)('a name that a transaction creates is not waited for $how', async ({ others }, context) => {
      if (engine.engine === 'sqlite') return context.skip('the whole file is locked')
      const [name, ...rest] = freshNames(1 + others) as [string, ...string[]]
      await inTransaction(async (tx) => {
        expect(await one.store.acquireIn(tx, attempt({ name, ttlMs: null }), 0)).toMatchObject({ granted: true })
        expect(await two.store.acquire(alike([name, ...rest]))).toMatchObject([
          { granted: false, holders: [], queued: false },
          ...rest.map(() => ({ granted: true })),
        ])
      })
    })
  })

  describe('gates', () => {
    const tryIn = (name: string) =>
      inTransaction((tx) => one.store.acquireIn(tx, attempt({ name, ttlMs: null }), 0)).then(({ granted }) => granted)
    const withGates = () => engine.engine === 'postgres' || engine.engine === 'mysql'

    it('keep transactions from a lock until it is opened by who closed it last', async (context) => {
      if (!withGates()) return context.skip('no stream of transactions keeps a lease from the queue there')
      const names = freshNames(2) as [string, string]
      for (const name of names) expect(await tryIn(name)).toBe(true)
      for (const by of ['first', 'second']) await two.store.closeGates!(names.map((name) => ({ name, by })))
      expect(await tryIn(names[0])).toBe(false)
      await one.store.openGates!(names.map((name) => ({ name, by: 'first' })))
      expect(await tryIn(names[0])).toBe(false)
      await two.store.openGates!(names.map((name) => ({ name, by: 'second' })))
      for (const name of names) expect(await tryIn(name)).toBe(true)
      await two.store.closeGates!([{ name: names[0], by: 'third' }])
      expect(await tryIn(names[0])).toBe(false)
      expect(await tryIn(names[1])).toBe(true)
    })

    it('open by themselves, should the process that closed them be gone', async (context) => {
      if (!withGates()) return context.skip('no stream of transactions keeps a lease from the queue there')
      const name = freshName()
      await two.store.closeGates!([{ name, by: 'gone' }])
      expect(await tryIn(name)).toBe(false)
      await eventually(async () => expect(await tryIn(name)).toBe(true))
    })
  })

  describe('enqueue', () => {
    it('serves tickets in the order of their arrival, whoever releases', async () => {
      const name = freshName()
      let hold: Hold = await one.acquire(name)
      const tickets = [await two.arrive(name), await one.arrive(name), await two.arrive(name), await one.arrive(name)]
      expect((await one.poll(name)).tickets).toEqual(tickets)
      for (const [index, ticket] of tickets.entries()) {
        const releasing = index % 2 === 0 ? one : two
        expect(await releasing.release(hold)).toMatchObject({ outcome: 'released', handedOver: true })
        hold = await handedTo(one, name, ticket)
        expect((await two.poll(name)).tickets).toEqual(tickets.slice(index + 1))
      }
      expect(await one.release(hold)).toEqual(RELEASED_TO_NOBODY)
    })

    it('adds callers to the last ticket of the queue if it is theirs', async () => {
      const name = freshName()
      await one.acquire(name)
      const first = await one.arrive(name)
      const joined = await one.enqueue(newTicket({ name, joins: first, count: 2 }))
      expect(joined).toMatchObject({ outcome: 'queued', ticket: first, view: { tickets: [first] } })
      const foreign = await two.arrive(name)
      // Not the last one any more: to join it would overtake.
      const own = newTicket({ name, joins: first })
      const apart = await one.enqueue(own)
      expect(apart).toMatchObject({ ticket: own.ticket, view: { tickets: [first, foreign, own.ticket] } })
      expect((await one.store.inspect(name))?.waiters).toBe(5)
    })

    it('takes one caller off the first ticket with each hand-off', async () => {
      const name = freshName()
      let hold: Hold = await one.acquire(name)
      const first = await one.arrive(name, { count: 2 })
      await one.arrive(name, { joins: first })
      const second = await two.arrive(name)
      for (const [ticket, rest] of [
        [first, [first, second]],
        [first, [first, second]],
        [first, [second]],
        [second, []],
      ] as const) {
        await one.release(hold)
        hold = await handedTo(one, name, ticket)
        expect((await one.poll(name)).tickets).toEqual(rest)
      }
    })

    it('keeps an ticket alive as long as the one who joined it last', async () => {
      const name = freshName()
      const hold = await one.acquire(name)
      const ticket = await two.arrive(name, { waitMs: SHORT_MS })
      await two.arrive(name, { joins: ticket, waitMs: LONG_MS })
      // Not shortened, either.
      await two.arrive(name, { joins: ticket, waitMs: 1 })
      await sleep(2 * SHORT_MS)
      expect(await one.release(hold)).toMatchObject({ handedOver: true })
      await expectHandedTo(one, name, ticket)
    })

    it('lets no queue get longer than it is allowed to, counted in callers', async () => {
      const name = freshName()
      await one.acquire(name)
      const enqueue = (count: number, joins: string | null, maxWaiters: number) =>
        one.store.enqueue([newTicket({ name, count, joins })], maxWaiters)
      expect(await enqueue(4, null, 3)).toEqual([{ outcome: 'full' }])
      const [first] = await enqueue(2, null, 3)
      const ticket = (first as { ticket: string }).ticket
      expect(await enqueue(2, null, 3)).toEqual([{ outcome: 'full' }])
      expect(await enqueue(2, ticket, 3)).toEqual([{ outcome: 'full' }])
      expect(await enqueue(1, ticket, 3)).toMatchObject([{ outcome: 'queued', ticket }])
      expect(await enqueue(1, ticket, 3)).toEqual([{ outcome: 'full' }])
      expect((await one.store.inspect(name))?.waiters).toBe(3)
    })

    it('answers for each lock, in order: queued, full, or without a row', async () => {
      const [held, full, missing, free] = freshNames(4)
      await one.acquire(held!, { holder: 'the holder' })
      await one.acquire(full!)
      await one.arrive(full!, { count: 3 })
      await one.release(await one.acquire(free!))
      const results = await two.store.enqueue(
        [free, missing, full, held].map((name) => newTicket({ name: name! })),
        3,
      )
      expect(results).toMatchObject([
        { outcome: 'queued', view: { name: free, holders: [], promotable: true } },
        { outcome: 'missing' },
        { outcome: 'full' },
        { outcome: 'queued', view: { name: held, holders: [{ label: 'the holder' }], promotable: false } },
      ])
    })

    it('takes no lock that is created at that moment for one whose queue is full', async () => {
      for (const name of freshNames(20)) {
        const enqueue = () => two.store.enqueue([newTicket({ name })], MANY)
        const [before, , after] = await Promise.all([enqueue(), one.store.acquire([attempt({ name })]), enqueue()])
        for (const [result] of [before, after]) expect(['queued', 'missing', 'locked']).toContain(result?.outcome)
      }
    })

    it('loses nobody when many arrive and leave at once', async () => {
      const name = freshName()
      let hold: Hold = await one.acquire(name)
      const asked = Array.from({ length: 30 }, (_, index) => ({ peer: index % 2 ? one : two, ...newTicket({ name }) }))
      await Promise.all(
        asked.map(({ peer, ...each }) =>
          repeated(
            () => peer.enqueue(each),
            ({ outcome }) => outcome !== 'locked',
          ),
        ),
      )
      const leaving = asked.filter((_, index) => index % 3 === 0)
      // A row that is locked at that moment stays as it is.
      await Promise.all(
        leaving.map(({ peer, ticket }) =>
          repeated(
            () => peer.store.withdraw([{ name, ticket, count: 1 }]),
            ([result]) => result!.withdrawn,
          ),
        ),
      )

      const { tickets } = await one.poll(name)
      const staying = asked.filter((each) => !leaving.includes(each))
      expect([...tickets].sort()).toEqual(staying.map(({ ticket }) => ticket).sort())
      for (const ticket of tickets) {
        await one.release(hold)
        hold = await handedTo(one, name, ticket)
      }
    })
  })

  describe('withdraw', () => {
    it('takes tickets out at the head, in the middle and at the end', async () => {
      const name = freshName()
      let hold: Hold = await one.acquire(name)
      const tickets: string[] = []
      for (let index = 0; index < 5; index++) tickets.push(await (index % 2 ? one : two).arrive(name))
      const [head, second, middle, fourth, last] = tickets as [string, string, string, string, string]
      for (const ticket of [head, middle, last]) expect(await one.withdraw(name, ticket)).toBeNull()
      expect((await one.poll(name)).tickets).toEqual([second, fourth])
      for (const ticket of [second, fourth]) {
        await one.release(hold)
        hold = await handedTo(one, name, ticket)
      }
      expect(await one.release(hold)).toEqual(RELEASED_TO_NOBODY)
    })

    it('takes as many callers as leave, and the ticket with the last of them', async () => {
      const name = freshName()
      await one.acquire(name)
      const ticket = await one.arrive(name, { count: 5 })
      const waiters = async () => (await one.store.inspect(name))?.waiters
      await one.withdraw(name, ticket, 2)
      expect(await waiters()).toBe(3)
      await one.withdraw(name, ticket, 2)
      expect(await one.poll(name)).toMatchObject({ tickets: [ticket] })
      await one.withdraw(name, ticket, 1)
      expect(await waiters()).toBe(0)
      expect(await one.poll(name)).toMatchObject({ tickets: [] })
    })

    it('opens the lock to everybody once the last one has left', async () => {
      const name = freshName()
      await one.acquire(name, { ttlMs: SHORT_MS })
      const ticket = await two.arrive(name)
      await one.untilFree(name)
      await two.withdraw(name, ticket)
      expect(await one.poll(name)).toMatchObject({ promotable: false })
      expect(await one.store.acquire([attempt({ name })])).toMatchObject([{ granted: true, takeover: true }])
    })

    it('answers the hold that the ticket has just been handed', async () => {
      const [only, more, held] = freshNames(3)
      const leaving: { name: string; ticket: string; count: number }[] = []
      for (const [name, count] of [
        [only!, 1],
        [more!, 2],
      ] as const) {
        const hold = await one.acquire(name)
        leaving.push({ name, ticket: await two.arrive(name, { count }), count: 1 })
        await one.release(hold)
      }
      await one.acquire(held!)
      leaving.push({ name: held!, ticket: await two.arrive(held!), count: 1 })

      const results = await two.store.withdraw(leaving)
      expect(results.map(({ withdrawn }) => withdrawn)).toEqual([true, true, true])
      const grants = results.map(({ grants: [grant] }) => grant)
      for (const [index, name] of [only!, more!].entries()) {
        expect(grants[index]).toMatchObject({ ...(await handedTo(two, name, leaving[index]!.ticket)), takeover: false })
        expect(grants[index]).toMatchObject({ process: two.process, remainingMs: expect.any(Number) })
        expect((await two.poll(name)).tickets).toEqual([])
      }
      expect(grants[2]).toBeUndefined()
    })

    it('says of which lock a transaction has the row', async (context) => {
      if (engine.engine === 'sqlite' || engine.engine === 'memory') {
        context.skip('no row is locked by itself there')
      }
      const [locked, other] = freshNames(2)
      const hold = await one.acquire(locked!)
      await one.acquire(other!)
      const withdrawals: { name: string; ticket: string; count: number }[] = []
      for (const name of [locked!, other!]) withdrawals.push({ name, ticket: await two.arrive(name), count: 1 })
      await inTransaction(async (tx) => {
        expect(await one.store.releaseIn(tx, hold)).toEqual({ awaited: true })
        expect(await two.store.withdraw(withdrawals)).toEqual([
          { withdrawn: false, grants: [] },
          { withdrawn: true, grants: [] },
        ])
      })
      expect((await two.poll(locked!)).tickets).toEqual([withdrawals[0]!.ticket])
      expect(await two.withdraw(locked!, withdrawals[0]!.ticket)).toBeNull()
      expect((await two.poll(locked!)).tickets).toEqual([])
    })

    it('answers nothing about holds of others, unknown tickets and unknown locks', async () => {
      const [held, missing] = freshNames(2)
      const hold = await one.acquire(held!)
      const ticket = await two.arrive(held!)
      const other = await one.arrive(held!)
      await one.release(hold)
      const unknown = randomBytes(8).toString('hex')
      expect(await one.withdraw(held!, other)).toBeNull()
      expect(await one.withdraw(held!, unknown)).toBeNull()
      expect(await one.withdraw(missing!, unknown)).toBeNull()
      await expectHandedTo(one, held!, ticket)
    })
  })

  describe('several tickets of one lock', () => {
    const DEMANDS = [EXCLUSIVE, { weight: SHARED, permits: null }]
    /** One who wants all of it, one who shares it, and so on. */
    const alternating = (name: string, count: number) =>
      Array.from({ length: count }, (_, index) => newTicket({ name, ...DEMANDS[index % 2] }))
    const idsOf = (tickets: readonly { readonly ticket: string }[]) => tickets.map(({ ticket }) => ticket)
    const leavingOf = (tickets: readonly NewTicket[]) =>
      tickets.map(({ name, ticket, count }) => ({ name, ticket, count }))

    it('are queued in their order, each with its terms, behind those who wait, and beside those of other locks', async () => {
      const [name, other, missing] = freshNames(3) as [string, string, string]
      let hold = await one.acquire(name)
      await one.acquire(other)
      const before = await one.arrive(name)
      const tickets = alternating(name, 5)
      const others = [...alternating(other, 2), ...alternating(missing, 2)]
      const asked = tickets.flatMap((ticket, index) => [ticket, ...others.slice(index, index + 1)])

      const results = await two.store.enqueue(asked, MANY)
      const places = [before, ...idsOf(tickets)]
      for (const [index, { name: of, ticket }] of asked.entries()) {
        const queued = of === name ? places : idsOf(others.slice(0, 2))
        expect(results[index]).toMatchObject(
          of === missing ? { outcome: 'missing' } : { outcome: 'queued', ticket, view: { name: of, tickets: queued } },
        )
      }
      expect((await one.poll(name)).tickets).toEqual(places)
      const modes = (await one.store.inspect(name))?.queue.map(({ mode }) => mode)
      expect(modes).toEqual(['exclusive', 'exclusive', 'shared', 'exclusive', 'shared', 'exclusive'])
      for (const place of places) {
        await one.release(hold)
        await expectHandedTo(one, name, place)
        hold = toHold((await one.poll(name)).holder!)
      }
    })

    it('may begin with one that joins the last of the queue', async () => {
      const name = freshName()
      await one.acquire(name)
      const last = await two.arrive(name)
      const [joining, ...others] = alternating(name, 3)
      const results = await two.store.enqueue([{ ...joining!, joins: last, count: 3 }, ...others], MANY)
      expect(idsOf(results as { ticket: string }[])).toEqual([last, ...idsOf(others)])
      expect((await one.poll(name)).tickets).toEqual([last, ...idsOf(others)])
      expect((await one.store.inspect(name))?.queue.map(({ waiters }) => waiters)).toEqual([4, 1, 1])

      const [apart, ...rest] = alternating(name, 2)
      const again = await two.store.enqueue([{ ...apart!, joins: last }, ...rest], MANY)
      expect(idsOf(again as { ticket: string }[])).toEqual([apart!.ticket, ...idsOf(rest)])
    })

    it('are left out from the first on for whom there is no room', async () => {
      const [name, full] = freshNames(2) as [string, string]
      await one.acquire(name)
      await one.acquire(full)
      const last = await one.arrive(name)
      await one.arrive(full, { count: 5 })
      const [first, large, small] = alternating(name, 3) as [NewTicket, NewTicket, NewTicket]
      const asked = [{ ...first, joins: last, count: 2 }, ...alternating(full, 2), { ...large, count: 3 }, small]
      const results = await one.store.enqueue(asked, 5)
      expect(results.map(({ outcome }) => outcome)).toEqual(['queued', 'full', 'full', 'full', 'full'])
      expect(await one.store.inspect(name)).toMatchObject({ waiters: 3, queue: [{ waiters: 3 }] })
      const rest = await one.store.enqueue([{ ...large, count: 2 }, small], 5)
      expect(rest.map(({ outcome }) => outcome)).toEqual(['queued', 'full'])
    })

    it('do not keep each other out if one can never be had', async () => {
      const name = freshName()
      await one.acquire(name)
      const [first, last] = alternating(name, 2) as [NewTicket, NewTicket]
      const permits = newTicket({ name, weight: 1, permits: 3, count: MANY })
      const results = await one.store.enqueue([first, permits, last], 2)
      expect(results).toMatchObject([{ outcome: 'queued' }, { outcome: 'unfit', kind: 'lock' }, { outcome: 'queued' }])
      expect((await one.poll(name)).tickets).toEqual(idsOf([first, last]))
      const unfit = [permits, newTicket({ name, weight: 0, permits: null })]
      expect(await one.store.enqueue(unfit, MANY)).toMatchObject([{ outcome: 'unfit' }, { outcome: 'unfit' }])
    })

    it('are left together: at the head, in the middle and at the end, in part, and unknown ones', async () => {
      const [name, other] = freshNames(2) as [string, string]
      await one.acquire(name)
      await one.acquire(other)
      const tickets = alternating(name, 6).map((ticket, index) => ({ ...ticket, count: index + 1 }))
      const elsewhere = newTicket({ name: other })
      await two.store.enqueue([...tickets, elsewhere], MANY)
      const unknown = newTicket({ name })
      const asked = [tickets[5]!, elsewhere, tickets[0]!, unknown, { ...tickets[3]!, count: 3 }, tickets[2]!]
      const results = await two.store.withdraw(leavingOf(asked))
      expect(results).toEqual(asked.map(() => ({ withdrawn: true, grants: [] })))
      expect((await one.poll(name)).tickets).toEqual(idsOf([tickets[1]!, tickets[3]!, tickets[4]!]))
      expect((await one.store.inspect(name))?.queue.map(({ waiters }) => waiters)).toEqual([2, 1, 5])
      expect((await one.poll(other)).tickets).toEqual([])
    })

    it('are told apart when one of them has just been handed the lock', async () => {
      const name = freshName()
      const hold = await one.acquire(name)
      const [first, second, third] = alternating(name, 3) as [NewTicket, NewTicket, NewTicket]
      const asked = [{ ...first, count: 2, process: two.process }, second, third]
      await two.store.enqueue(asked, MANY)
      await one.release(hold)
      // One of the first two has it; the other one leaves with the second.
      const [handed, others] = await two.store.withdraw(leavingOf([{ ...first, count: 1 }, second]))
      expect(handed).toMatchObject({ withdrawn: true, grants: [{ ...(await handedTo(two, name, first.ticket)) }] })
      expect(others).toEqual({ withdrawn: true, grants: [] })
      expect((await one.poll(name)).tickets).toEqual([third.ticket])
    })

    it('are neither queued nor left while a transaction has changed the row', async (context) => {
      if (engine.engine === 'sqlite' || engine.engine === 'memory') context.skip('no row is locked by itself there')
      const [name, other] = freshNames(2) as [string, string]
      const hold = await one.acquire(name)
      await one.acquire(other)
      const tickets = [...alternating(name, 2), ...alternating(other, 2)]
      await two.store.enqueue(tickets, MANY)
      await inTransaction(async (tx) => {
        expect(await one.store.releaseIn(tx, hold)).toEqual({ awaited: true })
        const more = [...alternating(name, 2), ...alternating(other, 2)]
        const results = await two.store.enqueue(more, MANY)
        expect(results.map(({ outcome }) => outcome)).toEqual(['locked', 'locked', 'queued', 'queued'])
        const left = await two.store.withdraw(leavingOf([...tickets, ...more.slice(2)]))
        expect(left.map(({ withdrawn }) => withdrawn)).toEqual([false, false, true, true, true, true])
      })
      expect((await two.poll(name)).tickets).toEqual(idsOf(tickets.slice(0, 2)))
      expect((await two.poll(other)).tickets).toEqual([])
    })

    it('are hundreds in one call', async () => {
      const name = freshName()
      await one.acquire(name)
      const tickets = alternating(name, 400)
      const results = await two.store.enqueue(tickets, MANY)
      expect(new Set(results.map(({ outcome }) => outcome))).toEqual(new Set(['queued']))
      expect((await one.poll(name)).tickets).toEqual(idsOf(tickets))
      const staying = tickets.filter((_, index) => index % 7 === 0)
      const left = await two.store.withdraw(leavingOf(tickets.filter((each) => !staying.includes(each)).toReversed()))
      expect(new Set(left.map(({ withdrawn }) => withdrawn))).toEqual(new Set([true]))
      expect((await one.poll(name)).tickets).toEqual(idsOf(staying))
    })

    it('stay next to each other when several processes come and leave at once', async () => {
      const name = freshName()
      await one.acquire(name)
      const groups = Array.from({ length: 16 }, (_, index) => ({
        peer: index % 2 ? one : two,
        tickets: alternating(name, 3),
      }))
      await Promise.all(
        groups.map(({ peer, tickets }) =>
          repeated(
            () => peer.store.enqueue(tickets, MANY),
            ([result]) => result!.outcome !== 'locked',
          ),
        ),
      )
      const queued = (await one.poll(name)).tickets
      expect([...queued].sort()).toEqual(idsOf(groups.flatMap(({ tickets }) => tickets)).sort())
      for (const { tickets } of groups) {
        const at = queued.indexOf(tickets[0]!.ticket)
        expect(queued.slice(at, at + tickets.length)).toEqual(idsOf(tickets))
      }
      await Promise.all(
        groups.map(({ peer, tickets }) =>
          repeated(
            () => peer.store.withdraw(leavingOf(tickets.slice(1))),
            (results) => results.every(({ withdrawn }) => withdrawn),
          ),
        ),
      )
      const left = queued.filter((id) => groups.some(({ tickets }) => tickets[0]!.ticket === id))
      expect((await one.poll(name)).tickets).toEqual(left)
    })
  })

  describe('poll', () => {
    it('tells who holds each lock, who waits, and whether it is time to promote', async () => {
      const [held, ready, idle, missing] = freshNames(4)
      const hold = await one.acquire(held!, { holder: 'the holder' })
      const waiting = [await two.arrive(held!), await one.arrive(held!)]
      const released = await one.acquire(ready!)
      await one.release(released)
      const early = await two.arrive(ready!)
      const gone = await one.acquire(idle!)
      await one.release(gone)

      const views = new Map((await two.store.poll([held!, ready!, idle!, missing!])).map((each) => [each.name, each]))
      const holder = {
        ...hold,
        weight: null,
        label: 'the holder',
        takeover: false,
        remainingMs: expect.closeTo(LONG_MS, -5),
      }
      const nobody = { holders: [], bySession: false }
      const waited = { bySession: false, leasesWait: true }
      expect(views.get(held!)).toEqual({
        name: held,
        token: hold.token,
        holders: [holder],
        promotable: false,
        tickets: waiting,
        ...waited,
      })
      expect(views.get(ready!)).toEqual({
        name: ready,
        token: released.token,
        ...nobody,
        promotable: true,
        leasesWait: true,
        tickets: [early],
      })
      expect(views.get(idle!)).toEqual({
        name: idle,
        token: gone.token,
        ...nobody,
        promotable: false,
        leasesWait: false,
        tickets: [],
      })
      expect(views.size).toBe(3)
    })

    // On SQLite there is one writer, and no transaction beside one that waits.
    it.skipIf(engine.engine === 'sqlite')(
      'tells transactions that wait for the end of leases from leases',
      async () => {
        const name = freshName()
        const hold = await one.acquire(name)
        const first = newTicket({ name, transaction: true })
        await two.store.enqueue([first], 100)
        expect(await two.poll(name)).toMatchObject({ leasesWait: false, tickets: [first.ticket] })
        const second = newTicket({ name })
        await two.store.enqueue([second], 100)
        expect(await two.poll(name)).toMatchObject({ leasesWait: true, tickets: [first.ticket, second.ticket] })
        await one.release(hold)
        await expectHandedTo(one, name, first.ticket)
      },
    )

    it('does not wait for a transaction that has the lock, and neither do inspect and list', async () => {
      const name = freshName()
      const hold = await one.acquire(name)
      await whileGuarded(hold, async () => {
        expect((await two.poll(name)).holder).toMatchObject(hold)
        expect(await two.store.inspect(name)).toMatchObject(hold)
        expect(await two.store.list(name)).toMatchObject([hold])
        expect(await two.store.acquire([attempt({ name })])).toMatchObject([{ granted: false, queued: false }])
      })
    })
  })

  describe('promote', () => {
    it('tells apart what is held, what nobody waits for, and what has never been held', async () => {
      const [held, expired, missing, awaited] = freshNames(4)
      await one.acquire(held!)
      await two.arrive(held!)
      await one.acquire(expired!, { ttlMs: SHORT_MS })
      await one.release(await one.acquire(awaited!))
      const ticket = await two.arrive(awaited!)
      await one.untilFree(expired!)
      const settled = await one.store.promote([missing!, held!, awaited!, expired!], one.process)
      expect(settled.map(({ outcome }) => outcome)).toEqual(['idle', 'held', 'handed over', 'idle'])
      await expectHandedTo(two, awaited!, ticket)
    })

    it('hands over a lease that ran out, and says that it was not released', async () => {
      const name = freshName()
      const lost = await one.acquire(name, { ttlMs: SHORT_MS })
      const ticket = await two.arrive(name)
      await one.untilFree(name)
      const {
        grants: [grant],
      } = await two.promote(name)
      const handed = await handedTo(two, name, ticket, { takeover: true })
      if (grant !== undefined) expect(grant).toMatchObject({ ...handed, process: two.process, takeover: true })
      expect(handed.token).toBeGreaterThan(lost.token)
      expect(await one.release(lost)).toMatchObject({ outcome: 'lost' })
      expect(await two.promote(name)).toMatchObject({ outcome: 'held' })
    })

    it('passes a lock over all callers of a process that did not claim it, and takes them off the queue', async () => {
      const name = freshName()
      const holder = await one.acquire(name)
      await two.arrive(name, { count: 2, ttlMs: SHORT_MS })
      await two.arrive(name)
      const ticket = await one.arrive(name, { count: 2 })
      await two.arrive(name)
      await one.release(holder)
      await one.untilFree(name)
      expect(await one.promote(name)).toMatchObject({ outcome: 'handed over' })
      await expectHandedTo(one, name, ticket, { takeover: true })
      expect((await one.poll(name)).tickets).toEqual([ticket])
    })

    it('holds that against the process no longer when the queue has been cleared', async () => {
      const name = freshName()
      const holder = await one.acquire(name)
      await two.arrive(name, { ttlMs: SHORT_MS })
      await one.release(holder)
      await one.untilFree(name)
      await two.arrive(name)
      expect(await one.promote(name)).toEqual({ outcome: 'idle', grants: [] })
      const ticket = await two.arrive(name)
      expect(await one.promote(name)).toMatchObject({ outcome: 'handed over' })
      await expectHandedTo(two, name, ticket)
    })

    it('does not hold it against a process that a lease which it had claimed ran out', async () => {
      const name = freshName()
      const holder = await one.acquire(name)
      const ticket = await two.arrive(name, { count: 2, ttlMs: SHORT_MS })
      await one.release(holder)
      await two.claim(await handedTo(two, name, ticket), SHORT_MS)
      await two.untilFree(name)
      await one.promote(name)
      await expectHandedTo(one, name, ticket, { takeover: true })
    })

    it('passes over those whose time is over', async () => {
      const name = freshName()
      await one.release(await one.acquire(name))
      await two.arrive(name, { waitMs: 1 })
      await one.arrive(name, { waitMs: 1, count: 3 })
      const living = await two.arrive(name, { count: 2 })
      const next = await one.arrive(name)
      await sleep(20)
      expect(await two.promote(name)).toMatchObject({ outcome: 'handed over' })
      await expectHandedTo(two, name, living, { takeover: false })
      expect((await two.poll(name)).tickets).toEqual([living, next])
    })

    it('still tells that the last holder had not released, when it has passed over the dead', async () => {
      const name = freshName()
      await one.acquire(name, { ttlMs: SHORT_MS })
      await two.arrive(name, { waitMs: 1 })
      const living = await one.arrive(name)
      await one.untilFree(name)
      expect(await two.promote(name)).toMatchObject({ outcome: 'handed over' })
      await expectHandedTo(two, name, living, { takeover: true })
    })

    it('clears a queue of nobody but the dead, so that the lock is open to everybody', async () => {
      const name = freshName()
      await one.acquire(name, { ttlMs: SHORT_MS })
      await two.arrive(name, { waitMs: 1 })
      await one.untilFree(name)
      expect(await one.store.acquire([attempt({ name })])).toMatchObject([{ granted: false, queued: true }])
      expect(await one.promote(name)).toEqual({ outcome: 'idle', grants: [] })
      expect(await one.poll(name)).toMatchObject({ holder: null, promotable: false, tickets: [] })
      expect(await one.store.acquire([attempt({ name })])).toMatchObject([{ granted: true }])
    })
  })

  describe('release', () => {
    it('hands over to nobody if nobody waits', async () => {
      const name = freshName()
      const hold = await one.acquire(name)
      expect(await one.release(hold)).toEqual(RELEASED_TO_NOBODY)
      expect(await one.release(hold)).toEqual({ ...RELEASED_TO_NOBODY, outcome: 'lost' })
      expect(await two.store.acquire([attempt({ name })])).toMatchObject([{ granted: true, takeover: false }])
    })

    it('releases only what owner and token hold, and answers in order', async () => {
      const names = freshNames(4)
      const [mine, foreign, stale, missing] = names as [string, string, string, string]
      const holds = await Promise.all([mine, foreign, stale].map((name) => repeated(() => one.acquire(name))))
      const ticket = await two.arrive(mine)
      await two.arrive(foreign)
      await two.arrive(stale)
      const results = await one.store.release(
        [
          { ...holds[1]!, owner: randomBytes(16).toString('hex') },
          { ...holds[0]!, name: missing },
          holds[0]!,
          { ...holds[2]!, token: holds[2]!.token - 1n },
        ],
        one.process,
      )
      expect(results.map(({ outcome }) => outcome)).toEqual(['lost', 'lost', 'released', 'lost'])
      expect(results.map(({ handedOver }) => handedOver)).toEqual([false, false, true, false])
      await expectHandedTo(two, mine, ticket)
      expect((await two.poll(foreign)).holder).toMatchObject(holds[1]!)
      expect((await two.poll(stale)).holder).toMatchObject(holds[2]!)
    })

    it('releases no hold of a later owner along with the others of that owner', async () => {
      const [both, early, late] = freshNames(3) as [string, string, string]
      for (const name of [both, early, late]) await one.release(await one.acquire(name))
      const first = alike([both, early])
      const stale = toHolds(first, await one.store.acquire(first))
      expect(await one.store.forceRelease(both)).toBe('released')
      const second = alike([both, late])
      const [standing, other] = toHolds(second, await two.store.acquire(second))
      const released = await one.store.release([...stale, other!], one.process)
      expect(released.map(({ outcome }) => outcome)).toEqual(['lost', 'released', 'released'])
      expect((await two.poll(both)).holder).toMatchObject(standing!)
      for (const { holders } of await two.store.poll([early, late])) expect(holders).toEqual([])
    })

    it('hands over a claim that is short, under the label of the one who waited', async () => {
      const name = freshName()
      const hold = await one.acquire(name)
      const ticket = await two.arrive(name, { holder: 'the waiter' })
      const {
        grants: [grant],
      } = await one.release(hold)
      const { holder } = await two.poll(name)
      expect(holder).toMatchObject({ label: 'the waiter', takeover: false })
      expect(holder?.remainingMs).toBeLessThanOrEqual(CONFIRM_MS)
      const handed = await handedTo(two, name, ticket)
      if (grant !== undefined) {
        const given = { process: two.process, takeover: false, remainingMs: expect.any(Number), weight: null }
        expect(grant).toEqual({ ...handed, ...given })
        expect(grant.remainingMs).toBeLessThanOrEqual(CONFIRM_MS)
        expect(grant.remainingMs).toBeGreaterThan(0)
      }
    })

    it('hands over for no longer than the ttl that was asked for', async () => {
      const name = freshName()
      const hold = await one.acquire(name)
      await two.arrive(name, { ttlMs: SHORT_MS })
      await one.release(hold)
      expect((await two.poll(name)).holder?.remainingMs).toBeLessThanOrEqual(SHORT_MS)
    })

    it('hands over a hold that is claimed by renewing it', async () => {
      const name = freshName()
      const holder = await one.acquire(name)
      const ticket = await two.arrive(name)
      await one.release(holder)
      const handed = await handedTo(two, name, ticket)
      const [renewal] = await two.store.renew([{ ...handed, ttlMs: LONG_MS }])
      expect(renewal).toEqual({ outcome: 'renewed', remainingMs: expect.closeTo(LONG_MS, -5) })
      expect((await one.poll(name)).holder).toMatchObject(handed)
      expect(await two.release(handed)).toEqual(RELEASED_TO_NOBODY)
    })

    it('hands over a hold that can be released and guarded without being claimed', async () => {
      const name = freshName()
      const holder = await one.acquire(name)
      const ticket = await one.arrive(name)
      const next = await two.arrive(name)
      await one.release(holder)
      const handed = await handedTo(one, name, ticket)
      await inTransaction(async (tx) => {
        expect(await one.store.guard(tx, [{ ...handed, ttlMs: LONG_MS }])).toEqual(['stands'])
      })
      expect(await one.release(handed)).toMatchObject({ outcome: 'released', handedOver: true })
      await expectHandedTo(two, name, next)
    })

    it('passes over those whose time is over', async () => {
      const name = freshName()
      const hold = await one.acquire(name)
      await two.arrive(name, { waitMs: 1, count: 2 })
      const living = await one.arrive(name)
      await two.arrive(name, { waitMs: 1 })
      await sleep(20)
      expect(await two.release(hold)).toMatchObject({ handedOver: true })
      await expectHandedTo(one, name, living)
      expect(await one.release(await handedTo(one, name, living))).toEqual(RELEASED_TO_NOBODY)
      expect(await one.poll(name)).toMatchObject({ holder: null, promotable: false, tickets: [] })
    })

    it('raises the token with each hand-off', async () => {
      const name = freshName()
      let hold: Hold = await one.acquire(name)
      const tokens = [hold.token]
      const ticket = await one.arrive(name, { count: 20 })
      for (let round = 0; round < 20; round++) {
        await two.release(hold)
        hold = await handedTo(two, name, ticket)
        tokens.push(hold.token)
      }
      await one.release(hold)
      tokens.push((await two.acquire(name)).token)
      expect(tokens.every((token, index) => index === 0 || token > tokens[index - 1]!)).toBe(true)
    })
  })

  describe('releaseIn', () => {
    it('hands over to nobody, and tells whether anybody waits', async () => {
      const [awaited, plain, lost] = freshNames(3)
      const holds = new Map<string, Hold>()
      for (const name of [awaited!, plain!, lost!]) holds.set(name, await one.acquire(name))
      const ticket = await two.arrive(awaited!)
      await inTransaction(async (tx) => {
        expect(await one.store.releaseIn(tx, holds.get(awaited!)!)).toEqual({ awaited: true })
        expect(await one.store.releaseIn(tx, holds.get(plain!)!)).toEqual({ awaited: false })
        expect(await one.store.releaseIn(tx, { ...holds.get(lost!)!, token: 1n })).toBe('lost')
      })
      expect(await one.poll(awaited!)).toMatchObject({ holder: null, promotable: true, tickets: [ticket] })
      expect(await one.poll(plain!)).toMatchObject({ holder: null, promotable: false })
      expect((await one.poll(lost!)).holder).toMatchObject(holds.get(lost!)!)
      expect(await one.promote(awaited!)).toMatchObject({ outcome: 'handed over' })
      await expectHandedTo(one, awaited!, ticket, { takeover: false })
    })

    it('has released nothing if the transaction rolls back', async () => {
      const name = freshName()
      const hold = await one.acquire(name)
      await two.arrive(name)
      const undo = new Error('undo')
      const transaction = inTransaction(async (tx) => {
        await one.store.releaseIn(tx, hold)
        throw undo
      })
      await expect(transaction).rejects.toBe(undo)
      expect((await one.poll(name)).holder).toMatchObject(hold)
    })
  })

  describe('lists of holds', () => {
    it('renews those that stand, and answers in order', async () => {
      const [mine, expired, foreign, missing, second] = freshNames(5) as [string, string, string, string, string]
      const hold = await one.acquire(mine)
      const late = await one.acquire(expired, { ttlMs: SHORT_MS })
      const other = await two.acquire(foreign)
      const last = await one.acquire(second)
      await one.untilFree(expired)
      const asked = [late, hold, { ...other, token: other.token + 1n }, { ...hold, name: missing }, last]
      const renewals = await one.store.renew(asked.map((each) => ({ ...each, ttlMs: 2 * LONG_MS })))
      expect(renewals.map(({ outcome }) => outcome)).toEqual(['lost', 'renewed', 'lost', 'lost', 'renewed'])
      expect(renewals[1]!.remainingMs).toBeGreaterThan(LONG_MS)
      // Never shortened.
      const [again] = await one.store.renew([{ ...hold, ttlMs: 1000 }])
      expect(again!.remainingMs).toBeGreaterThan(LONG_MS)
    })

    it('guards those that are held, and answers in order', async () => {
      const [mine, foreign, missing, expired, second] = freshNames(5) as [string, string, string, string, string]
      const hold = await one.acquire(mine)
      const other = await two.acquire(foreign)
      const late = await one.acquire(expired, { ttlMs: SHORT_MS })
      const last = await one.acquire(second)
      await one.untilFree(expired)
      await inTransaction(async (tx) => {
        const asked = [{ ...hold, name: missing }, last, { ...other, owner: hold.owner }, late, hold]
        const answer = one.store.guard(
          tx,
          asked.map((each) => ({ ...each, ttlMs: LONG_MS })),
        )
        expect(answer instanceof Promise).toBe(!one.store.synchronous)
        // On PostgreSQL the expiry does not decide: it may be that of an old snapshot.
        const ranOut = engine.engine === 'postgres' ? 'expired' : 'lost'
        expect(await answer).toEqual(['lost', 'stands', 'lost', ranOut, 'stands'])
      })
    })

    it.each(OWNERS)('lets nobody have any of those that are guarded, by $whom', async ({ attemptsOn }) => {
      const names = freshNames(2)
      const terms = { ttlMs: SHORT_MS }
      const holds = await Promise.all(names.map((name) => one.acquire(name, terms)))
      await inTransaction(async (tx) => {
        const asked = holds.map((hold) => ({ ...hold, ...terms }))
        expect(await one.store.guard(tx, asked)).toEqual(['stands', 'stands'])
        await sleep(2 * SHORT_MS)
        const results = await two.store.acquire(attemptsOn(names)).catch((error: unknown) => {
          // SQLite's whole file is locked.
          expect(error).toMatchObject({ failure: 'conflict' })
          return []
        })
        expect(results.filter(({ granted }) => granted)).toEqual([])
      })
    })

    it('does all of it for 300 names at once', async () => {
      const names = freshNames(300)
      const attempts = alike(names)
      const holds = toHolds(attempts, await one.store.acquire(attempts))
      const tokens = new Map(holds.map(({ name, token }) => [name, token]))
      const shuffled = names.toReversed()
      const asked = shuffled.map((name) => newTicket({ name, process: two.process, count: 2 }))
      const tickets = new Map(asked.map(({ name, ticket }) => [name, ticket]))
      const queued = await two.store.enqueue(asked, MANY)
      expect(queued.map((each) => each.outcome === 'queued' && each.view.name)).toEqual(shuffled)

      const renewals = await one.store.renew(holds.map((hold) => ({ ...hold, ttlMs: LONG_MS })))
      expect(new Set(renewals.map(({ outcome }) => outcome))).toEqual(new Set(['renewed']))
      await inTransaction(async (tx) => {
        const guards = await one.store.guard(
          tx,
          holds.map((hold) => ({ ...hold, ttlMs: LONG_MS })),
        )
        expect(guards).toEqual(names.map(() => 'stands'))
      })
      const released = await one.store.release(holds, one.process)
      expect(released).toEqual(names.map(() => expect.objectContaining({ outcome: 'released', handedOver: true })))
      for (const [index, { grants }] of released.entries())
        for (const grant of grants) expect(grant.name).toBe(names[index])

      const handed = (await two.store.poll(names)).map(({ name, holders: [holder] }) => ({ ...(holder as Hold), name }))
      expect(handed).toHaveLength(300)
      for (const { name, owner, token } of handed) {
        expect(owner.slice(0, 16)).toBe(tickets.get(name))
        expect(token).toBeGreaterThan(tokens.get(name)!)
      }
      const left = await two.store.withdraw(shuffled.map((name) => ({ name, ticket: tickets.get(name)!, count: 1 })))
      expect(left.map(({ grants: [grant] }) => grant?.name)).toEqual(shuffled)
      await two.store.release(handed, two.process)
      expect((await one.store.promote(names, one.process)).map(({ outcome }) => outcome)).toEqual(
        names.map(() => 'idle'),
      )
    })

    it('answers nothing when nothing is asked', async () => {
      const { store, process } = one
      expect(await store.acquire([])).toEqual([])
      expect(await store.enqueue([], MANY)).toEqual([])
      expect(await store.withdraw([])).toEqual([])
      expect(await store.poll([])).toEqual([])
      expect(await store.promote([], process)).toEqual([])
      expect(await store.release([], process)).toEqual([])
      expect(await store.renew([])).toEqual([])
    })
  })

  describe('what a transaction has locked', () => {
    it.for(ALONE_OR_NOT)('can be handed over after the transaction, released $how', async ({ others }) => {
      const name = freshName()
      const hold = await one.acquire(name)
      const ticket = await two.arrive(name)
      const holds = [hold, ...(await Promise.all(freshNames(others).map((other) => two.acquire(other))))]
      await whileGuarded(hold, async () => {
        if (engine.engine === 'sqlite') {
          // The whole file is locked.
          await expect(two.store.release(holds, two.process)).rejects.toMatchObject({ failure: 'conflict' })
          return
        }
        const [result, ...more] = await two.store.release(holds, two.process)
        expect(more).toEqual(more.map(() => RELEASED_TO_NOBODY))
        const locked = engine.engine === 'mysql'
        expect(result).toEqual({
          outcome: locked ? 'locked' : 'released',
          handedOver: false,
          grants: [],
          promoteLater: !locked,
        })
        expect((await two.promote(name)).outcome).toBe(locked ? 'held' : 'locked')
        expect(await two.store.acquire([attempt({ name })])).toMatchObject([{ granted: false, queued: !locked }])
      })
      if ((await two.poll(name)).holder !== null) await two.release(hold)
      else expect(await two.promote(name)).toMatchObject({ outcome: 'handed over' })
      await expectHandedTo(two, name, ticket, { takeover: false })
    })

    it.for(ALONE_OR_NOT)('is released $how at once if nobody waits for it', async ({ others }, context) => {
      if (engine.engine === 'mysql' || engine.engine === 'sqlite') {
        context.skip('a guard locks the row, or the file')
      }
      const hold = await one.acquire(freshName())
      const holds = [hold, ...(await Promise.all(freshNames(others).map((other) => two.acquire(other))))]
      await whileGuarded(hold, async () => {
        expect(await two.store.release(holds, two.process)).toEqual(holds.map(() => RELEASED_TO_NOBODY))
      })
    })

    it.for(ALONE_OR_NOT)('is not waited for by a renewal, nor by a release, $how', async ({ others }, context) => {
      if (engine.engine === 'sqlite' || engine.engine === 'memory') {
        context.skip('no row is locked by itself there')
      }
      const hold = await one.acquire(freshName())
      const holds = [hold, ...(await Promise.all(freshNames(others).map((other) => one.acquire(other))))]
      await inTransaction(async (tx) => {
        expect(await one.store.releaseIn(tx, hold)).toEqual({ awaited: false })
        const renewals = await two.store.renew(holds.map((each) => ({ ...each, ttlMs: 2 * LONG_MS })))
        expect(renewals.map(({ outcome }) => outcome)).toEqual(['held', ...holds.slice(1).map(() => 'renewed')])
        const results = await two.store.release(holds, two.process)
        expect(results.map(({ outcome }) => outcome)).toEqual(['locked', ...holds.slice(1).map(() => 'released')])
      })
    })

    it.for(OWNERS)('does not delay the others of a list, with $whom', async ({ attemptsOn }, context) => {
      if (engine.engine === 'sqlite' || engine.engine === 'memory') {
        context.skip('no row is locked by itself there')
      }
      const names = freshNames(5) as [string, string, string, string, string]
      const [taken, held, released, awaited, fresh] = names
      const hold = await two.acquire(held)
      const mine = await two.acquire(released)
      await one.release(await one.acquire(awaited))
      await one.release(await one.acquire(taken))
      const waiting = await one.arrive(awaited)
      await inTransaction(async (tx) => {
        const locked = await one.store.acquireIn(tx, attempt({ name: taken, ttlMs: null }), 0)
        expect(locked).toMatchObject({ granted: true })

        expect(await two.store.acquire(attemptsOn([taken, fresh]))).toMatchObject([
          { granted: false, holders: [], queued: false },
          { granted: true },
        ])
        const asked = [taken, held].map((name) => newTicket({ name, process: two.process }))
        expect(await two.store.enqueue(asked, MANY)).toMatchObject([{ outcome: 'locked' }, { outcome: 'queued' }])
        expect((await two.store.promote([taken, awaited], two.process))[1]).toMatchObject({ outcome: 'handed over' })
        await expectHandedTo(two, awaited, waiting)
        const holds = [{ ...hold, name: taken }, mine]
        expect((await two.store.release(holds, two.process))[1]).toMatchObject({ outcome: 'released' })
        const withdrawals = asked.map(({ name, ticket }) => ({ name, ticket, count: 1 }))
        expect((await two.store.withdraw(withdrawals))[1]).toEqual({ withdrawn: true, grants: [] })
        expect((await two.poll(held)).tickets).toEqual([])
        const renewals = await two.store.renew([taken, held].map((name) => ({ ...hold, name, ttlMs: LONG_MS })))
        expect(renewals[1]).toMatchObject({ outcome: 'renewed' })
        expect((await two.store.poll(names)).map(({ name }) => name).sort()).toEqual([...names].sort())
      })
    })
  })

  describe('administration', () => {
    it('counts those who wait', async () => {
      const prefix = freshName()
      const [busy, quiet] = [`${prefix} busy`, `${prefix} quiet`]
      await one.acquire(busy)
      await one.acquire(quiet)
      await two.arrive(busy, { count: 3 })
      await one.arrive(busy)
      expect(await one.store.inspect(busy)).toMatchObject({ name: busy, waiters: 4 })
      expect(await one.store.inspect(quiet)).toMatchObject({ name: quiet, waiters: 0 })
      expect(await one.store.list(prefix)).toMatchObject([
        { name: busy, waiters: 4 },
        { name: quiet, waiters: 0 },
      ])
    })

    it('gives a lock that was taken by force to the one who waits', async () => {
      const name = freshName()
      const evicted = await one.acquire(name)
      const ticket = await two.arrive(name)
      expect(await two.store.forceRelease(name)).toBe('released')
      expect(await two.poll(name)).toMatchObject({ holder: null, promotable: true })
      expect(await one.store.acquire([attempt({ name })])).toMatchObject([{ granted: false, queued: true }])
      expect(await one.store.acquire([attempt({ name, owner: evicted.owner })])).toMatchObject([{ granted: false }])
      expect(await two.promote(name)).toMatchObject({ outcome: 'handed over' })
      const handed = await handedTo(two, name, ticket, { takeover: false })
      expect(handed.token).toBeGreaterThan(evicted.token + 1n)
      expect(await one.release(evicted)).toMatchObject({ outcome: 'lost' })
    })

    it('takes a lock by force from one who has been handed it', async () => {
      const name = freshName()
      const holder = await one.acquire(name)
      const ticket = await two.arrive(name, { count: 2 })
      await one.release(holder)
      const first = await handedTo(two, name, ticket)
      expect(await one.store.forceRelease(name)).toBe('released')
      expect(await one.promote(name)).toMatchObject({ outcome: 'handed over' })
      expect((await handedTo(two, name, ticket)).token).toBeGreaterThan(first.token)
      expect(await two.release(first)).toMatchObject({ outcome: 'lost' })
    })

    it('purges no lock that a living caller waits for', async () => {
      const [awaited, abandoned, held] = freshNames(3)
      const kept = await one.acquire(held!)
      await one.release(await one.acquire(awaited!))
      await one.release(await one.acquire(abandoned!))
      const ticket = await two.arrive(awaited!)
      await two.arrive(abandoned!, { waitMs: 1 })
      await sleep(20)
      expect(await one.store.purge(0)).toBeGreaterThanOrEqual(1)
      expect((await one.store.poll([abandoned!, awaited!, held!])).map(({ name }) => name).sort()).toEqual(
        [awaited, held].sort(),
      )
      expect((await one.poll(held!)).holder).toMatchObject(kept)
      expect(await one.promote(awaited!)).toMatchObject({ outcome: 'handed over' })
      await expectHandedTo(one, awaited!, ticket)
    })
  })

  describe('a guard that outlives its lease', () => {
    it('keeps the lock from being purged', async (context) => {
      if (engine.engine === 'sqlite') return context.skip('the whole file is locked')
      const name = freshName()
      const hold = await one.acquire(name, { ttlMs: SHORT_MS })
      await inTransaction(async (tx) => {
        expect(await one.store.guard(tx, [{ ...hold, ttlMs: SHORT_MS }])).toEqual(['stands'])
        await two.untilFree(name)
        await two.store.purge(0)
        expect(await two.store.poll([name])).toHaveLength(1)
      })
    })
  })

  describe('hints', () => {
    it('tells a process that listens of what others hand over to it, and counts it as alive until it ends', async (context) => {
      const listen = two.store.listen?.bind(two.store)
      const tells = engine.engine === 'memory' || (engine.engine === 'postgres' && engine.sessions)
      if (listen === undefined || !tells) return context.skip('who waits there has to poll')
      const name = freshName()
      const grants: Grant[] = []
      const listening = await listen(
        two.process,
        (grant) => grants.push(grant),
        () => undefined,
      )
      expect(listening.provesLife).toBe(true)
      const holder = await one.acquire(name)
      const ticket = await two.arrive(name, { listening: true, provenAlive: true, count: 3 })
      await one.release(holder)
      const [grant] = await eventually(() => {
        expect(grants).toHaveLength(1)
        return grants
      })
      const handed = await handedTo(two, name, ticket)
      const given = { process: two.process, takeover: false, remainingMs: expect.any(Number), weight: null }
      expect(grant).toEqual({ ...handed, ...given })
      expect(grant!.remainingMs).toBeLessThanOrEqual(CONFIRM_MS)
      // What a process hands over to itself is in the answer.
      expect((await two.release(handed)).grants).toMatchObject([{ process: two.process }])
      await listening.ping?.()
      expect(grants).toHaveLength(1)

      // As many as no test has the time to wait for, if each of them was served.
      const gone = await two.arrive(name, { listening: true, provenAlive: true, count: MANY / 2 })
      const living = await one.arrive(name)
      await listening.close()
      await eventually(async () => {
        await two.release((await two.poll(name)).holder!)
        await expectHandedTo(one, name, living)
      })
      expect((await one.poll(name)).tickets).not.toContain(gone)
    })

    it('passes over a process whose session has ended', async (context) => {
      const shows = engine.engine === 'memory' || (engine.engine === 'postgres' && engine.sessions)
      if (!shows) return context.skip('no session shows there that a process lives')
      const [alone, first, second, expired] = freshNames(4) as [string, string, string, string]
      const holds: Hold[] = []
      for (const name of [alone, first, second]) holds.push(await one.acquire(name))
      await one.acquire(expired, { ttlMs: SHORT_MS })
      const listening = await two.store.listen!(
        two.process,
        () => undefined,
        () => undefined,
      )
      const living = new Map<string, string>()
      for (const name of [alone, first, second, expired]) {
        await two.arrive(name, { listening: true, provenAlive: true })
        living.set(name, await one.arrive(name))
      }
      await listening.close()
      await one.untilFree(expired)
      for (const some of [holds.slice(0, 1), holds.slice(1)]) {
        const results = await one.store.release(some, one.process)
        expect(results.map(({ handedOver }) => handedOver)).toEqual(some.map(() => true))
      }
      expect(await one.promote(expired)).toMatchObject({ outcome: 'handed over' })
      for (const [name, ticket] of living) await expectHandedTo(one, name, ticket)
    })

    it('counts a process as alive that asks over the session by which it shows that it lives', async (context) => {
      if (engine.engine !== 'postgres' || !engine.sessions) return context.skip('no session shows it there')
      const { store, close } = twoOnItsOwnConnection()
      const listening = await store.listen!(
        two.process,
        () => undefined,
        () => undefined,
      )
      const living = { listening: true, provenAlive: true }
      const [released, expired] = freshNames(2) as [string, string]
      const hold = await one.acquire(released)
      await one.acquire(expired, { ttlMs: SHORT_MS })
      const tickets = [await two.arrive(released, living), await two.arrive(expired, living)] as const
      await one.untilFree(expired)
      expect(await store.release([hold], two.process)).toMatchObject([{ handedOver: true }])
      await expectHandedTo(two, released, tickets[0])
      expect(await store.promote([expired], two.process)).toMatchObject([{ outcome: 'handed over' }])
      await expectHandedTo(two, expired, tickets[1])
      await listening.close()
      await close()
    })

    it('touches the file that other processes watch, after the hand-offs to them', async (context) => {
      if (engine.engine !== 'sqlite') return context.skip('no file of that engine is watched')
      const name = freshName()
      // Touches within a millisecond are several, too.
      const date = vi.spyOn(Date, 'now').mockReturnValue(Date.now())
      context.onTestFinished(() => date.mockRestore())
      let touches = 0
      let wanted = true
      const watch = watchFile(
        (await two.store.changingFile!())!,
        () => wanted,
        () => touches++,
      )
      const hold = await one.acquire(name)
      const arriving = [two, one, two, one, two]
      const tickets: string[] = []
      for (const process of arriving) tickets.push(await process.arrive(name))

      await one.release(hold)
      // What came before the first touch may have been taken for one.
      await eventually(() => expect(touches).toBeGreaterThan(0))
      await sleep(50)
      touches = 0
      await one.release(await handedTo(one, name, tickets[0]!))
      await sleep(50)
      expect(touches).toBe(0)
      await one.release(await handedTo(one, name, tickets[1]!))
      await eventually(() => expect(touches).toBe(1))
      await one.release(await handedTo(two, name, tickets[2]!))
      wanted = false
      await one.release(await handedTo(one, name, tickets[3]!))
      await expectHandedTo(two, name, tickets[4]!)
      await sleep(50)
      expect(touches).toBe(1)
      watch.close()
    })
  })
}

/** Every verb with text that must be escaped on the way to the database: by the store, or by an ORM. */
export function textSuite(engine: Subject): void {
  const { one, two, inTransaction } = peersOn(engine)
  const texts = {
    quotes: `it's "quoted" \`so\``,
    backslashes: `C:\\new\\table\\u0041 \\' \\" \\\\`,
    'braces and brackets': `{"id":"x"} {a,b} [1] $[0] {{}} $1 ?`,
    commas: `a,b,,c, null,NULL`,
    'white space': ` line\r\nbreak\ttab  `,
    '4-byte characters': '😀𝒳🏴‍☠️',
    '255 bytes': `${'😀'.repeat(63)}abc`,
    'control characters': '\u0001\u0008\u001f\u007f',
    percents: '100%_\\%',
    'a property of all objects': '__proto__',
  }

  for (const [what, text] of Object.entries(texts)) {
    it(`takes ${what} in names and labels as they are`, async () => {
      expect(Buffer.byteLength(text)).toBeLessThanOrEqual(255)
      const plain = freshName()
      const attempts = alike([text, plain], { holder: text })
      const holds = toHolds(attempts, await one.store.acquire(attempts))
      const asked = [plain, text].map((name) => newTicket({ name, holder: text, process: two.process, count: 2 }))
      const queued = await two.store.enqueue(asked, MANY)
      expect(queued).toMatchObject([
        { outcome: 'queued', view: { name: plain, holders: [{ label: text }] } },
        { outcome: 'queued', view: { name: text, holders: [{ label: text }] } },
      ])
      expect(await one.store.renew(holds.map((hold) => ({ ...hold, ttlMs: LONG_MS })))).toMatchObject([
        { outcome: 'renewed' },
        { outcome: 'renewed' },
      ])
      expect(await one.store.acquire([attempt({ name: text })])).toMatchObject([{ granted: false, holders: [text] }])
      const results = await one.store.release(holds, one.process)
      expect(results).toMatchObject([{ handedOver: true }, { handedOver: true }])
      for (const { name, ticket } of asked) {
        await expectHandedTo(two, name, ticket)
        expect(await two.store.inspect(name)).toMatchObject({ name, holder: text, waiters: 1 })
        expect(await two.withdraw(name, ticket)).toMatchObject({ name })
        await two.release(await handedTo(two, name, ticket))
      }
      const hold = await one.acquire(text)
      await inTransaction(async (tx) => {
        expect(await one.store.guard(tx, [{ ...hold, ttlMs: LONG_MS }])).toEqual(['stands'])
        expect(await one.store.releaseIn(tx, hold)).toEqual({ awaited: false })
      })
      expect(await one.promote(text)).toEqual({ outcome: 'idle', grants: [] })

      const kept = await two.acquire(plain)
      const some = alike([text, plain])
      const [taken] = toHolds(some.slice(0, 1), await one.store.acquire(some))
      const released = await one.store.release([taken!, { ...taken!, name: plain }], one.process)
      expect(released.map(({ outcome }) => outcome)).toEqual(['released', 'lost'])
      expect(await one.poll(text)).toMatchObject({ name: text, holder: null })
      expect((await one.poll(plain)).holder).toMatchObject(kept)
    })
  }
}

/** Two processes, each with a connection of its own, on a database that lasts as long as the tests of the suite. */
function peersOn(engine: Subject) {
  let database: OpenEngine
  let other: Connected
  const one = new Peer()
  const two = new Peer()

  beforeAll(async () => {
    database = await engine.open()
    other = await database.connect()
    one.store = withoutCheckpoints(storeOn(database.connected.adapter))
    two.store = withoutCheckpoints(storeOn(other.adapter))
  })

  afterAll(() => database.close())

  return {
    one,
    two,
    /** A transaction of process one. */
    inTransaction: <T>(body: (tx: unknown) => Promise<T>, isolation?: Isolation) =>
      database.connected.transaction(body, isolation),
    /** A transaction of process two. */
    inOther: <T>(body: (tx: unknown) => Promise<T>) => other.transaction(body),
    /** Process two, which does `first` before each statement like `pattern`. */
    twoAfter(pattern: RegExp, first: () => Promise<unknown>): Store<unknown> {
      const adapter = other.adapter as SqlAdapter<unknown>
      const after = async (statement: Statement, send: () => Result | Promise<Result>) => {
        if (pattern.test(statement.text)) await first()
        return send()
      }
      const late: SqlAdapter<unknown> = {
        ...adapter,
        query: (statement) => after(statement, () => adapter.query(statement)),
        ...(!adapter.synchronous && {
          queryIn: (tx: unknown, statement: Statement) => after(statement, () => adapter.queryIn(tx, statement)),
        }),
      }
      return withoutCheckpoints(storeOn(late))
    },
    /** Process two of PostgreSQL, with a connection beside the pool, over which it asks and listens. */
    twoOnItsOwnConnection() {
      const adapter = other.adapter as SqlAdapter<unknown>
      const own = new OwnConnection(adapter as SqlAdapter<never>, { enabled: true, timeoutMs: 5000 })
      return { store: postgresStore(adapter, {}, own), close: () => own.close() }
    },
  }
}

/** A store as a process uses it. */
class Peer {
  store!: Store<unknown>
  readonly process = (randomBytes(8).readBigInt64BE() >> 1n).toString()

  async acquire(name: string, terms: Partial<ExclusiveAttempt> = {}): Promise<Hold> {
    const asked = attempt({ name, ...terms })
    const [hold] = toHolds([asked], await this.store.acquire([asked]))
    return hold!
  }

  async enqueue(asked: NewTicket): Promise<EnqueueResult> {
    const [result] = await this.store.enqueue([asked], MANY)
    return result!
  }

  /** Answers the id of the ticket. */
  async arrive(name: string, terms: Partial<NewTicket> = {}): Promise<string> {
    const result = await this.enqueue(newTicket({ name, process: this.process, ...terms }))
    if (result.outcome !== 'queued') throw new Error(`could not queue for ${name}: ${result.outcome}`)
    return result.ticket
  }

  /** What it has been handed just now, if anything. */
  async withdraw(name: string, ticket: string, count = 1): Promise<Grant | null> {
    const [result] = await this.store.withdraw([{ name, ticket, count }])
    expect(result!.withdrawn).toBe(true)
    return result!.grants[0] ?? null
  }

  async poll(name: string): Promise<LockView & { holder: Holder | null }> {
    const [view] = await this.store.poll([name])
    return { ...view!, holder: view!.holders[0] ?? null }
  }

  async promote(name: string): Promise<Promotion> {
    const [promotion] = await this.store.promote([name], this.process)
    return promotion!
  }

  async release(hold: Hold): Promise<ReleaseResult> {
    const [result] = await this.store.release([hold], this.process)
    return result!
  }

  /** Renews for the first time. */
  async claim(hold: Hold, ttlMs = LONG_MS): Promise<void> {
    expect(await this.store.renew([{ ...hold, ttlMs }])).toMatchObject([{ outcome: 'renewed' }])
  }

  async untilFree(...names: string[]): Promise<void> {
    await eventually(async () => {
      for (const { holders } of await this.store.poll(names)) expect(holders).toEqual([])
    })
  }
}

const RELEASED_TO_NOBODY: ReleaseResult = { outcome: 'released', handedOver: false, grants: [], promoteLater: false }

function freshNames(count: number): string[] {
  return Array.from({ length: count }, freshName)
}

/** Sent together. */
function alike(names: readonly string[], terms: Partial<ExclusiveAttempt> = {}): ExclusiveAttempt[] {
  const owner = anOwner()
  return names.map((name) => attempt({ owner, ...terms, name }))
}

function attempt(terms: Partial<ExclusiveAttempt> & { name: string }): ExclusiveAttempt {
  return { ...EXCLUSIVE, owner: anOwner(), ttlMs: LONG_MS, holder: 'test', session: null, ...terms }
}

function newTicket(terms: Partial<NewTicket> & { name: string }): NewTicket {
  return {
    ...EXCLUSIVE,
    count: 1,
    ticket: randomBytes(8).toString('hex'),
    joins: null,
    ttlMs: LONG_MS,
    holder: 'test',
    session: null,
    process: '1',
    listening: false,
    provenAlive: false,
    transaction: false,
    waitMs: LONG_MS,
    ...terms,
  }
}

function toHolds(attempts: readonly Attempt[], results: readonly AttemptResult[]): Hold[] {
  return attempts.map(({ name, owner }, index) => {
    const result = results[index]!
    if (!result.granted) throw new Error(`${name} was not granted: ${JSON.stringify(result)}`)
    return { name, owner, token: result.token }
  })
}

/** The hold of the lock, which this ticket must have been handed. */
async function handedTo(
  peer: Peer,
  name: string,
  ticket: string,
  { takeover }: { takeover?: boolean } = {},
): Promise<Hold> {
  const { holder } = await peer.poll(name)
  expect(holder).not.toBeNull()
  const { owner, token } = holder!
  expect(owner).toBe(ticket + token.toString(16).padStart(16, '0'))
  if (takeover !== undefined) expect(holder!.takeover).toBe(takeover)
  return { name, owner, token }
}

const expectHandedTo: (...args: Parameters<typeof handedTo>) => Promise<void> = async (...args) => {
  await handedTo(...args)
}

/** Statements that had no effect, because the file was busy or two deadlocked, may be repeated. */
async function repeated<T>(call: () => Promise<T>, isDone: (result: T) => boolean = () => true): Promise<T> {
  for (;;) {
    try {
      const result = await call()
      if (isDone(result)) return result
    } catch (error) {
      if (!(error instanceof DatabaseError) || error.failure !== 'conflict') throw error
    }
    await sleep(5)
  }
}
