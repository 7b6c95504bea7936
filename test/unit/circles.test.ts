import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type ClaimingWait, circlesOf, described, mayBeStuck, type Seen, stuckBy } from '../../src/protocol/circles.ts'
import type { LockState } from '../../src/protocol/store.ts'

const NOW = 1_000_000

/** Who holds a lock or permits of a semaphore, by tokens, and who waits for it, first come first. */
interface Lock {
  readonly permits?: number
  readonly holders: readonly { readonly token: bigint; readonly weight: number | null }[]
  readonly queue: readonly { readonly weight: number | null; readonly since: number }[]
}

function stateOf(name: string, { permits, holders, queue }: Lock): LockState | null {
  const [first] = holders
  if (first === undefined) return null
  const who = { owner: 'o', holder: 'h', expiresInMs: 1000 }
  const modeOf = (weight: number | null) => (weight === null ? 'exclusive' : 'shared')
  return {
    ...who,
    name,
    token: first.token,
    waiters: queue.length,
    mode: modeOf(first.weight),
    holders: holders.map(({ token, weight }) => ({ ...who, token, weight: weight ?? 1 })),
    queue: queue.map(({ weight, since }) => ({
      holder: 'h',
      mode: modeOf(weight),
      weight: weight ?? 1,
      waiters: 1,
      waitingMs: NOW - since,
    })),
    ...(permits !== undefined && { permits }),
  }
}

function wait(id: string, name: string, claims: Record<string, number>, weight: number | null = null): ClaimingWait {
  return {
    id,
    name,
    weight,
    holder: `holder ${id}`,
    since: Number(id),
    queued: Number(id),
    // Below 0: of a transaction.
    claims: Object.entries(claims).map(([name, token]) => ({
      name,
      token: `${Math.abs(token)}`,
      ...(token < 0 && { inTransaction: true as const }),
    })),
  }
}

function seen(locks: Record<string, Lock>, token = 0n): Map<string, Seen> {
  return new Map(Object.entries(locks).map(([name, lock]) => [name, { state: stateOf(name, lock), token }]))
}

const heldBy = (token: number, weight: number | null = null): Lock => ({
  holders: [{ token: BigInt(token), weight }],
  queue: [],
})
const idsOf = (waits: readonly ClaimingWait[]) => waits.map(({ id }) => id)

describe('circles', () => {
  it('of two, the youngest is the victim, and each is told by what it holds and waits for', () => {
    const waits = [wait('1', 'b', { a: 1 }), wait('2', 'a', { b: 2 })]
    const stuck = stuckBy(waits, seen({ a: heldBy(1), b: heldBy(2) }), NOW)
    const circles = circlesOf(stuck)
    expect(circles.map(({ victim }) => victim.id)).toEqual(['2'])
    expect(described(circles[0]!)).toEqual(['holder 2: b -> a', 'holder 1: a -> b'])
  })

  it('are none where a hold is over', () => {
    const waits = [wait('1', 'b', { a: 1 }), wait('2', 'a', { b: 2 })]
    expect(stuckBy(waits, seen({ a: heldBy(3), b: heldBy(2) }), NOW)).toEqual([])
    expect(mayBeStuck(waits)).toEqual(waits)
    expect(stuckBy(waits, seen({ a: { holders: [], queue: [] }, b: heldBy(2) }), NOW)).toEqual([])
  })

  it('have one victim for all that have a wait in common, and those who wait for them are none', () => {
    const waits = [
      wait('1', 'b', { a: 1 }),
      wait('2', 'a', { b: 2, c: 3 }),
      wait('3', 'c', { a: 4 }),
      wait('4', 'a', { d: 5 }),
      wait('5', 'd', {}),
    ]
    const shared: Lock = { holders: [1, 4].map((token) => ({ token: BigInt(token), weight: 1 })), queue: [] }
    const stuck = stuckBy(waits, seen({ a: shared, b: heldBy(2), c: heldBy(3), d: heldBy(5) }), NOW)
    expect(idsOf(stuck)).toEqual(['1', '2', '3', '4', '5'])
    const circles = circlesOf(stuck)
    expect(circles.map(({ victim, waits }) => [victim.id, idsOf(waits)])).toEqual([['3', ['3', '2']]])
  })

  it('of permits are there only if those who wait leave too few', () => {
    const semaphore = (weight: number): Lock => ({
      permits: 5,
      holders: [
        { token: 1n, weight },
        { token: 9n, weight: 5 - weight },
      ],
      queue: [],
    })
    const waits = (wanted: number) => [wait('1', 'b', { s: 1 }), wait('2', 's', { b: 2 }, wanted)]
    for (const held of [1, 2, 3, 4]) {
      for (const wanted of [1, 2, 3, 4, 5]) {
        const stuck = stuckBy(waits(wanted), seen({ s: semaphore(held), b: heldBy(2) }), NOW)
        expect(stuck.length > 0, `${held} held, ${wanted} wanted`).toBe(held + wanted > 5)
      }
    }
  })

  it('of who wants more permits than it leaves itself', () => {
    const lock: Lock = { permits: 3, holders: [{ token: 1n, weight: 2 }], queue: [] }
    const [circle] = circlesOf(stuckBy([wait('1', 's', { s: 1 }, 2)], seen({ s: lock }), NOW))
    expect(described(circle!)).toEqual(['holder 1: s -> s'])
    expect(stuckBy([wait('1', 's', { s: 1 }, 1)], seen({ s: lock }), NOW)).toEqual([])
  })

  it('of those who have some permits and want more name all of them', () => {
    const waits = [wait('1', 's', { s: 1 }, 2), wait('2', 's', { s: 2 }, 2)]
    const lock: Lock = { permits: 3, holders: [1n, 2n].map((token) => ({ token, weight: 1 })), queue: [] }
    const [circle] = circlesOf(stuckBy(waits, seen({ s: lock }), NOW))
    expect(described(circle!)).toEqual(['holder 2: s -> s', 'holder 1: s -> s'])
  })

  it('of readers need a writer between them, who came before', () => {
    const waits = [wait('10', 'b', { a: 1 }), wait('20', 'a', { b: 2 }, 1)]
    const readers = (since: number): Lock => ({
      holders: [{ token: 1n, weight: 1 }],
      queue: [{ weight: null, since }],
    })
    expect(stuckBy(waits, seen({ a: readers(15), b: heldBy(2) }), NOW)).toHaveLength(2)
    expect(stuckBy(waits, seen({ a: readers(25), b: heldBy(2) }), NOW)).toEqual([])
    // Who could not queue yet, though it came before, is behind all who could.
    const outside = waits.map((wait) => ({ ...wait, queued: null }))
    expect(stuckBy(outside, seen({ a: readers(25), b: heldBy(2) }), NOW)).toHaveLength(2)
  })

  it('may go through a transaction, whose holds nobody sees before its commit', () => {
    const waits = [wait('1', 'b', { a: 1 }), wait('2', 'a', { b: -20 })]
    const nobody: Lock = { holders: [], queue: [] }
    expect(stuckBy(waits, seen({ a: heldBy(1), b: nobody }, 19n), NOW)).toHaveLength(2)
    // It has ended, and its handle serves another one.
    expect(stuckBy(waits, seen({ a: heldBy(1), b: nobody }, 20n), NOW)).toEqual([])
    // It cannot have what somebody else is seen to have.
    expect(stuckBy(waits, seen({ a: heldBy(1), b: heldBy(7, 1) }, 19n), NOW)).toEqual([])
  })

  it('are there if, and only if, somebody never comes on, though all who can do come and go', () => {
    const NAMES = ['a', 'b', 'c', 'd']
    const caller = fc.record({ waits: fc.constantFrom(...NAMES, null), has: fc.subarray(NAMES, { maxLength: 3 }) })
    fc.assert(
      fc.property(fc.array(caller, { maxLength: 8 }), (callers) => {
        // Each lock is held by the first who says so, exclusively.
        const holderOf = new Map<string, number>()
        callers.forEach(({ has }, index) => {
          for (const name of has) if (!holderOf.has(name)) holderOf.set(name, index)
        })
        const waits = callers.flatMap(({ waits, has }, index) => {
          const holds = has.filter((name) => holderOf.get(name) === index)
          if (waits === null || holds.includes(waits)) return []
          return [wait(`${index}`, waits, Object.fromEntries(holds.map((name) => [name, index])))]
        })
        const states = seen(
          Object.fromEntries(
            NAMES.map((name) => [name, holderOf.has(name) ? heldBy(holderOf.get(name)!) : { holders: [], queue: [] }]),
          ),
        )
        const waiting = new Map(waits.map(({ id, name }) => [Number(id), name]))
        // One after the other, in any order: who waits for nothing ends, and so does who gets what it waits for.
        const ended = new Set([...callers.keys()].filter((index) => !waiting.has(index)))
        for (let before = -1; before !== ended.size; ) {
          before = ended.size
          for (const [index, name] of waiting) {
            const holder = holderOf.get(name)
            if (holder === undefined || ended.has(holder)) ended.add(index)
          }
        }
        const stuck = stuckBy(waits, states, NOW)
        expect(new Set(stuck.map(({ id }) => Number(id)))).toEqual(
          new Set([...waiting.keys()].filter((i) => !ended.has(i))),
        )
        const circles = circlesOf(stuck)
        expect(circles.length > 0).toBe(stuck.length > 0)
        for (const { victim, waits } of circles) {
          expect(waits[0]).toBe(victim)
          for (const [index, each] of waits.entries()) {
            const next = waits[(index + 1) % waits.length]!
            expect(next.claims.map(({ name }) => name)).toContain(each.name)
            expect(each.since).toBeLessThanOrEqual(victim.since)
          }
        }
      }),
      { numRuns: 2000 },
    )
  })
})
