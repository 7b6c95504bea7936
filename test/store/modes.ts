import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newOwner, newTicketId } from '../../src/protocol/ids.ts'
import {
  type Attempt,
  type AttemptResult,
  EXCLUSIVE,
  type Grant,
  type Hold,
  type NewTicket,
  SHARED,
  type Store,
} from '../../src/protocol/store.ts'
import { freshName, type OpenEngine, type TestEngine } from '../engines.ts'
import { storeOn } from './store-on.ts'

const LONG_MS = 60_000
const SHORT_MS = 100
const PERMITS = 5
const READER = { weight: SHARED, permits: null } as const
const WRITER = EXCLUSIVE
const CONFLICT = { failure: 'conflict' }
const taking = (weight: number) => ({ weight, permits: PERMITS })

/** What each store promises about shared holds and permits, asked of the store itself. */
export function modesSuite(engine: Pick<TestEngine, 'open' | 'engine'>): void {
  let database: OpenEngine
  let store: Store<unknown>
  /** Of transactions: on SQLite one that is open takes in all that happens on its connection. */
  let desk: Store<unknown>
  /** A transaction has the whole file, and whatever others would change has to be asked for again. */
  const oneWriter = engine.engine === 'sqlite'
  const process = (randomBytes(8).readBigInt64BE() >> 1n).toString()

  beforeAll(async () => {
    database = await engine.open()
    desk = storeOn(database.connected.adapter)
    store = storeOn((await database.connect()).adapter)
  })
  afterAll(() => database.close())

  const inTransaction = <T>(body: (tx: unknown) => Promise<T>) => database.connected.transaction(body)

  async function attempt(name: string, terms: Partial<Attempt>): Promise<AttemptResult & { readonly owner: string }> {
    const asked = { ...WRITER, name, owner: newOwner(), ttlMs: LONG_MS, holder: 'test', session: null, ...terms }
    const [result] = await store.acquire([asked])
    return { ...result!, owner: asked.owner }
  }

  async function acquire(name: string, terms: Partial<Attempt>): Promise<Hold> {
    const result = await attempt(name, terms)
    if (!result.granted) throw new Error(`${name} was not granted: ${JSON.stringify(result)}`)
    const { owner, token, slot } = result
    return { name, owner, token, ...(slot !== undefined && { slot }) }
  }

  async function arrive(name: string, terms: Partial<NewTicket>): Promise<string> {
    const alive = { listening: false, provenAlive: false, transaction: false, waitMs: LONG_MS, joins: null, count: 1 }
    const who = { name, process, holder: 'test', session: null, ticket: newTicketId(), ttlMs: LONG_MS }
    const [result] = await store.enqueue([{ ...WRITER, ...alive, ...who, ...terms }], 1000)
    if (result!.outcome !== 'queued') throw new Error(`could not queue: ${JSON.stringify(result)}`)
    return result!.ticket
  }

  async function release(hold: Hold) {
    const [result] = await store.release([hold], process)
    return result!
  }

  async function promote(name: string) {
    const [result] = await store.promote([name], process)
    return result!
  }

  /** On InnoDB it renews the lease with the commit. */
  async function guard(tx: unknown, hold: Hold, ttlMs = LONG_MS) {
    const [result] = await desk.guard(tx, [{ ...hold, ttlMs }])
    return result!
  }

  async function untilOver(name: string): Promise<void> {
    await expect.poll(async () => (await store.poll([name]))[0]?.holders.length).toBe(0)
  }

  const weights = (grants: readonly Grant[]) => grants.map(({ weight }) => weight)

  describe('shared holds', () => {
    it('are many at once, each with a slot and a higher token, and none beside an exclusive one', async () => {
      const name = freshName()
      const one = await acquire(name, READER)
      const two = await acquire(name, READER)
      expect(two.token).toBeGreaterThan(one.token)
      expect(one.slot).not.toBe(two.slot)
      expect(await attempt(name, WRITER)).toMatchObject({ granted: false, holders: ['test', 'test'], queued: false })
      await release(one)
      expect(await attempt(name, WRITER)).toMatchObject({ granted: false, holders: ['test'] })
      await release(two)
      const writer = await acquire(name, WRITER)
      expect(writer).not.toHaveProperty('slot')
      expect(await attempt(name, READER)).toMatchObject({ granted: false })
    })

    it('wait behind a writer that waits, and come in together after it, with consecutive tokens', async () => {
      const name = freshName()
      const reader = await acquire(name, READER)
      await arrive(name, WRITER)
      expect(await attempt(name, READER)).toMatchObject({ granted: false, queued: false })
      await arrive(name, { ...READER, count: 3 })
      await arrive(name, WRITER)
      await arrive(name, READER)
      const [writer] = (await release(reader)).grants
      const { grants } = await release(writer!)
      expect(weights(grants)).toEqual([SHARED, SHARED, SHARED])
      const [first] = grants
      expect(grants.map(({ token }) => token)).toEqual([0n, 1n, 2n].map((n) => first!.token + n))
      expect(new Set(grants.map(({ owner }) => owner)).size).toBe(3)
    })

    it('are granted again to an attempt that is repeated', async () => {
      const name = freshName()
      const owner = newOwner()
      const hold = await acquire(name, { ...READER, owner })
      await acquire(name, READER)
      expect(await acquire(name, { ...READER, owner })).toEqual(hold)
    })

    it('may be taken several times by one call', async () => {
      const name = freshName()
      const asked = [1, 2, 3].map(() => ({
        ...READER,
        name,
        owner: newOwner(),
        ttlMs: LONG_MS,
        holder: 'test',
        session: null,
      }))
      const results = await store.acquire(asked)
      expect(new Set(results.map((result) => result.granted && result.slot)).size).toBe(3)
    })

    it('and exclusive ones may be asked about in one call', async () => {
      const [shared, alone] = [freshName(), freshName()]
      const who = { ttlMs: LONG_MS, holder: 'test', session: null }
      const asked = [
        { ...READER, ...who, name: shared, owner: newOwner() },
        { ...WRITER, ...who, name: alone, owner: newOwner() },
        { ...READER, ...who, name: shared, owner: newOwner() },
      ]
      const holds = (await store.acquire(asked)).map((result, index): Hold => {
        if (!result.granted) throw new Error(`${index} was not granted`)
        const { name, owner } = asked[index]!
        const { token, slot } = result
        return { name, owner, token, ...(slot !== undefined && { slot }) }
      })
      expect(holds.map(({ slot }) => slot)).toEqual([1, undefined, 2])
      const leases = holds.map((hold) => ({ ...hold, ttlMs: 2 * LONG_MS }))
      for (const { outcome, remainingMs } of await store.renew(leases)) {
        expect(outcome).toBe('renewed')
        expect(remainingMs).toBeGreaterThan(LONG_MS)
      }
      await inTransaction(async (tx) => expect(await desk.guard(tx, leases)).toEqual(['stands', 'stands', 'stands']))
      await arrive(shared, WRITER)
      const results = await store.release(holds, process)
      expect(results.map(({ outcome }) => outcome)).toEqual(['released', 'released', 'released'])
      expect(results.map(({ handedOver }) => handedOver)).toEqual([false, false, true])
      expect(await attempt(alone, WRITER)).toMatchObject({ granted: true })
    })

    it.skipIf(oneWriter)('are guarded beside each other, and count until their guards end', async () => {
      const name = freshName()
      const one = await acquire(name, { ...READER, ttlMs: SHORT_MS })
      const two = await acquire(name, READER)
      await inTransaction(async (tx) => {
        expect(await guard(tx, one, SHORT_MS)).toBe('stands')
        await inTransaction(async (other) => expect(await guard(other, two)).toBe('stands'))
        await release(two)
        await untilOver(name)
        expect(await attempt(name, WRITER)).toMatchObject({ granted: false })
        await arrive(name, WRITER)
        expect(await promote(name)).toMatchObject({ outcome: 'locked' })
        expect(await store.forceRelease(name)).toBe('free')
      })
      expect(await promote(name)).toMatchObject({ outcome: 'handed over', grants: [{ takeover: true }] })
    })

    it.runIf(oneWriter)('are guarded, and nothing is granted beside a guard', async () => {
      const name = freshName()
      const one = await acquire(name, { ...READER, ttlMs: SHORT_MS })
      await inTransaction(async (tx) => {
        expect(await guard(tx, one)).toBe('stands')
        await untilOver(name)
        for (const terms of [WRITER, READER]) await expect(attempt(name, terms)).rejects.toMatchObject(CONFLICT)
        await expect(arrive(name, WRITER)).rejects.toMatchObject(CONFLICT)
      })
      expect(await attempt(name, WRITER)).toMatchObject({ granted: true, takeover: true })
    })

    it.skipIf(oneWriter)('that are released under a guard count until it ends', async ({ skip }) => {
      skip(engine.engine === 'mysql', 'on InnoDB nobody else can change what a transaction has locked')
      const name = freshName()
      const hold = await acquire(name, READER)
      await arrive(name, WRITER)
      await inTransaction(async (tx) => {
        expect(await guard(tx, hold)).toBe('stands')
        expect(await release(hold)).toMatchObject({ outcome: 'released', handedOver: false, promoteLater: true })
        expect(await release(hold)).toMatchObject({ outcome: 'lost' })
      })
      expect(await promote(name)).toMatchObject({ outcome: 'handed over', grants: [{ takeover: false }] })
    })

    it('that are guarded cannot be released where the guard keeps all others from its slot', async ({ skip }) => {
      skip(engine.engine !== 'mysql', 'a hold may end under its guard')
      const name = freshName()
      const hold = await acquire(name, READER)
      await arrive(name, WRITER)
      await inTransaction(async (tx) => {
        expect(await guard(tx, hold)).toBe('stands')
        expect(await release(hold)).toMatchObject({ outcome: 'locked' })
      })
      expect(await release(hold)).toMatchObject({ outcome: 'released', grants: [{ takeover: false }] })
    })

    it('that a transaction adopts have ended with its commit, and are what they were after a rollback', async () => {
      const name = freshName()
      const lost = await acquire(name, READER)
      const rollback = inTransaction(async (tx) => {
        expect(await desk.adoptIn(tx, lost)).toBe('stands')
        throw new Error('undo')
      })
      await expect(rollback).rejects.toThrow('undo')
      expect(await store.poll([name])).toMatchObject([{ holders: [{ token: lost.token }] }])
      await inTransaction(async (tx) => {
        expect(await desk.adoptIn(tx, lost)).toBe('stands')
        expect(await attempt(name, WRITER)).toMatchObject({ granted: false })
        if (!oneWriter) await release(await acquire(name, READER))
      })
      expect(await store.poll([name])).toMatchObject([{ holders: [] }])
      expect(await attempt(name, WRITER)).toMatchObject({ granted: true, takeover: false })
      await inTransaction(async (tx) => expect(await desk.adoptIn(tx, lost)).toBe('lost'))
    })

    it('come of an exclusive hold, with the readers who are next, unless it guards a transaction', async () => {
      const name = freshName()
      const writer = await acquire(name, WRITER)
      await arrive(name, { ...READER, count: 2 })
      await arrive(name, WRITER)
      await inTransaction(async (tx) => {
        expect(await guard(tx, writer)).toBe('stands')
        const downgrade = store.downgrade(writer, process)
        if (oneWriter) await expect(downgrade).rejects.toMatchObject(CONFLICT)
        else expect(await downgrade).toEqual({ outcome: 'locked' })
      })
      const result = await store.downgrade(writer, process)
      if (result.outcome !== 'downgraded') throw new Error(result.outcome)
      expect(weights(result.grants)).toEqual([SHARED, SHARED])
      expect(await store.downgrade(writer, process)).toEqual({ ...result, grants: [] })
      const reader = { ...writer, slot: result.slot }
      expect(await store.renew([{ ...reader, ttlMs: LONG_MS }])).toMatchObject([{ outcome: 'renewed' }])
      await inTransaction(async (tx) => {
        expect(await guard(tx, writer)).toBe('lost')
        expect(await guard(tx, reader)).toBe('stands')
      })
      expect(await release(writer)).toMatchObject({ outcome: 'lost' })
      expect(await release(reader)).toMatchObject({ outcome: 'released', handedOver: false })
    })

    it('let those in who came behind a writer that does not wait any more', async () => {
      const name = freshName()
      await acquire(name, READER)
      const ticket = await arrive(name, WRITER)
      await arrive(name, READER)
      expect(await store.withdraw([{ name, ticket, count: 1 }])).toMatchObject([{ withdrawn: true, promotable: true }])
      expect(await promote(name)).toMatchObject({ outcome: 'handed over', grants: [{ takeover: false }] })
    })

    it('let those in who came behind writers that leave together, and not before all have', async () => {
      const name = freshName()
      await acquire(name, READER)
      const tickets = [await arrive(name, WRITER), await arrive(name, WRITER), await arrive(name, READER)]
      await arrive(name, READER)
      const [first, second, third] = tickets.map((ticket) => ({ name, ticket, count: 1 }))
      const stillWaits = { withdrawn: true, grants: [] }
      expect(await store.withdraw([second!, third!])).toEqual([stillWaits, stillWaits])
      expect(await store.withdraw([first!, second!])).toMatchObject([{ promotable: true }, { promotable: true }])
      expect(await promote(name)).toMatchObject({ outcome: 'handed over', grants: [{ takeover: false }] })
    })
  })

  describe('permits', () => {
    it('are granted as long as they last, and the first who does not fit is not passed', async () => {
      const name = freshName()
      expect(await store.openSemaphore(name, PERMITS)).toEqual({ permits: PERMITS })
      expect(await store.openSemaphore(name, 99)).toEqual({ permits: PERMITS })
      const one = await acquire(name, taking(2))
      const two = await acquire(name, taking(2))
      expect(await store.available(name)).toBe(1)
      expect(await attempt(name, taking(2))).toMatchObject({ granted: false, holders: ['test', 'test'] })
      await arrive(name, taking(4))
      await arrive(name, taking(1))
      expect(await attempt(name, taking(1))).toMatchObject({ granted: false, queued: false })
      expect(await release(one)).toMatchObject({ handedOver: false, promoteLater: false })
      expect(weights((await release(two)).grants)).toEqual([4, 1])
      expect(await store.available(name)).toBe(0)
    })

    it('are taken over from a hold that ran out by who needs them, and by nobody else', async () => {
      const name = freshName()
      await acquire(name, { ...taking(3), ttlMs: SHORT_MS })
      expect(await attempt(name, { ...taking(2), ttlMs: SHORT_MS })).toMatchObject({ granted: true, takeover: false })
      await untilOver(name)
      expect(await attempt(name, taking(1))).toMatchObject({ granted: true, takeover: true })
      expect(await attempt(name, taking(4))).toMatchObject({ granted: true, takeover: false })
    })

    it('can be more or fewer, and are not granted until they fit', async () => {
      const name = freshName()
      const hold = await acquire(name, taking(PERMITS))
      const heavy = await arrive(name, taking(4))
      const light = await arrive(name, taking(1))
      expect(await store.resize(name, 3, process)).toEqual({ outcome: 'resized', grants: [] })
      expect(await store.poll([name])).toMatchObject([{ tickets: [light] }])
      expect(await attempt(name, taking(4))).toMatchObject({ granted: false, kind: { permits: 3 } })
      expect(heavy).not.toBe(light)
      expect(await store.resize(name, 6, process)).toMatchObject({ outcome: 'resized', grants: [{ weight: 1 }] })
      await release(hold)
      expect(await store.available(name)).toBe(5)
    })

    it('are no lock, and a lock has none', async () => {
      const [lock, semaphore, unknown] = [freshName(), freshName(), freshName()]
      await acquire(lock, WRITER)
      await store.openSemaphore(semaphore, PERMITS)
      expect(await store.openSemaphore(lock, PERMITS)).toBe('lock')
      expect(await store.available(lock)).toBe('lock')
      expect(await store.available(unknown)).toBeNull()
      expect(await store.resize(lock, 1, process)).toEqual({ outcome: 'lock', grants: [] })
      expect(await attempt(lock, taking(1))).toMatchObject({ granted: false, kind: 'lock' })
      const kind = { permits: PERMITS }
      for (const terms of [READER, WRITER]) {
        expect(await attempt(semaphore, terms)).toMatchObject({ granted: false, kind })
        await expect(arrive(semaphore, terms)).rejects.toThrow('unfit')
      }
      for (const weight of [0, -1, PERMITS + 1]) {
        expect(await attempt(semaphore, taking(weight))).toMatchObject({ granted: false, kind })
        expect(await attempt(unknown, taking(weight))).toMatchObject({ granted: false })
      }
      expect(await store.available(semaphore)).toBe(PERMITS)
      expect(await store.available(unknown)).toBeNull()
    })
  })

  it('a semaphore is not purged as long as any of it is held, nor soon after it was opened', async () => {
    const [opened, held, resized] = [freshName(), freshName(), freshName()]
    await store.openSemaphore(opened, PERMITS)
    await acquire(held, taking(1))
    await store.resize(resized, PERMITS, process)
    await store.purge(LONG_MS)
    await store.openSemaphore(resized, 1)
    for (const name of [opened, resized]) expect(await store.available(name)).toBe(PERMITS)
    expect(await store.available(held)).toBe(PERMITS - 1)
  })

  it('inspect and list tell all who have it, and who waits', async () => {
    const name = freshName()
    const one = await acquire(name, { ...taking(2), holder: 'one' })
    await acquire(name, { ...taking(3), holder: 'two' })
    await arrive(name, { ...taking(4), count: 2 })
    const state = await store.inspect(name)
    const { owner, token } = one
    expect(state).toMatchObject({
      ...{ name, owner, token },
      holder: 'one',
      mode: 'shared',
      waiters: 2,
      permits: PERMITS,
    })
    expect(state!.holders).toMatchObject([
      { holder: 'one', weight: 2 },
      { holder: 'two', weight: 3 },
    ])
    expect(state!.queue).toMatchObject([{ mode: 'shared', weight: 4, waiters: 2 }])
    expect(await store.list(name)).toMatchObject([{ holders: [{ weight: 2 }, { weight: 3 }] }])
    expect(await store.forceRelease(name)).toBe('released')
    expect(await store.available(name)).toBe(PERMITS)
  })

  it('forceRelease ends the hold of a token, and no other', async () => {
    const [shared, exclusive] = [freshName(), freshName()]
    const one = await acquire(shared, taking(2))
    const other = await acquire(shared, taking(1))
    const alone = await acquire(exclusive, WRITER)
    for (const { name, token } of [one, alone]) expect(await store.forceRelease(name, token - 1n)).toBe('free')
    expect(await store.forceRelease(shared, one.token)).toBe('released')
    expect(await store.available(shared)).toBe(PERMITS - 1)
    expect(await release(one)).toMatchObject({ outcome: 'lost' })
    expect(await release(other)).toMatchObject({ outcome: 'released' })
    expect(await store.forceRelease(exclusive, alone.token)).toBe('released')
    expect(await release(alone)).toMatchObject({ outcome: 'lost' })
  })
}
