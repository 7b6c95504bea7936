import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { createLocks, type Locks, QueueFullError } from '../../src/index.ts'
import { untilWaiting } from '../contract/harness.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { routed } from '../statements.ts'
import { sharedEngines } from './one-per-engine.ts'

/** No two of them that follow each other have a place in the queue together. */
const CALLERS = 400
/** Statements that all of them need together, some of which meet a row that is locked, and are sent again. One each is too many. */
const FEW = 60
const LEFT = new Error('left')

type Lease = Promise<{ release(): Promise<boolean> }>

/** Of one process. */
interface Crowd {
  /** Whoever has it keeps everybody else waiting. */
  hold(): Lease
  /** The caller who comes as the nth. */
  come(nth: number, signal?: AbortSignal): Lease
}

const CROWDS = [
  {
    what: 'who want all of a lock and share it in turn',
    of: (locks: Locks<unknown>, name: string): Crowd => ({
      hold: () => locks.acquire(name),
      come: (nth, signal) => locks.acquire(name, { ...options(signal), mode: nth % 2 ? 'shared' : 'exclusive' }),
    }),
  },
  {
    what: 'who want one permit and two in turn',
    of(locks: Locks<unknown>, name: string): Crowd {
      const semaphore = locks.semaphore(name, { permits: 2 })
      return {
        hold: () => semaphore.acquire({ weight: 2 }),
        come: (nth, signal) => semaphore.acquire({ ...options(signal), weight: 1 + (nth % 2) }),
      }
    },
  },
]

function options(signal: AbortSignal | undefined) {
  return { wait: '10m', ...(signal && { signal }) } as const
}

describe.each(sharedEngines.filter(({ engine }) => engine !== 'memory'))('on $name', { timeout: 120_000 }, (engine) => {
  let open: OpenEngine

  beforeAll(async () => {
    open = await engine.open()
  })

  afterAll(() => open.close())

  it.each(CROWDS)('hundreds $what queue and leave in few statements, and keep nobody waiting', async ({ of }) => {
    let changes = 0
    const counted = routed((await open.connect()).adapter as SqlAdapter<unknown>, (statement, forward) => {
      if (/\b(insert|update)\b|rowlock_(release|unshare|promote)_1/.test(statement.text)) changes++
      return forward()
    })
    await using locks = createLocks(counted)
    await using others = await open.locks()
    const name = freshName()
    const crowd = of(locks, name)
    const other = of(others, name)
    const held = await other.hold()
    const controller = new AbortController()
    const callers = Array.from({ length: CALLERS }, (_, nth) => crowd.come(nth, controller.signal))
    const left = Promise.allSettled(callers)
    await untilWaiting(others, name, CALLERS)
    expect(changes).toBeLessThan(FEW)

    changes = 0
    const next = other.come(0)
    await untilWaiting(others, name, CALLERS + 1)
    controller.abort(LEFT)
    await held.release()
    await (await next).release()
    // Nobody is left in the queue, or it would be theirs.
    await (await other.hold()).release()
    expect(changes).toBeLessThan(FEW)
    const outcomes = await left
    expect(outcomes.filter((outcome) => outcome.status === 'rejected' && outcome.reason === LEFT)).toHaveLength(CALLERS)
  })

  it.each(CROWDS)('those $what are served in the order in which they came', async ({ of }) => {
    await using locks = await open.locks()
    await using others = await open.locks()
    const name = freshName()
    const [crowd, other] = [of(locks, name), of(others, name)]
    const held = await other.hold()
    const served: number[] = []
    const come = async (by: Crowd, nth: number) => {
      const lease = await by.come(nth)
      served.push(nth)
      await lease.release()
    }
    const callers: Promise<void>[] = []
    for (const by of [crowd, other, crowd]) {
      for (let more = 0; more < 20; more++) callers.push(come(by, callers.length))
      await untilWaiting(others, name, callers.length)
    }
    await held.release()
    await Promise.all(callers)
    expect(served).toEqual([...callers.keys()])
  })

  it.each([
    { room: 3, waits: 'for a part of a run' },
    { room: 4, waits: 'for a whole run' },
  ])('where there is room $waits, the first wait and the others are refused', async ({ room }) => {
    await using locks = await open.locks({ maxWaiters: room })
    await using others = await open.locks()
    const name = freshName()
    const held = await others.acquire(name)
    const modes = ['exclusive', 'shared', 'shared', 'shared', 'exclusive', 'shared'] as const
    const served: number[] = []
    const callers = modes.map(async (mode, nth) => {
      const lease = await locks.acquire(name, { mode, wait: '10m' })
      served.push(nth)
      await lease.release()
    })
    for (const refused of callers.slice(room)) await expect(refused).rejects.toBeInstanceOf(QueueFullError)
    await untilWaiting(others, name, room)
    await held.release()
    await Promise.all(callers.slice(0, room))
    expect(served.toSorted((one, other) => one - other)).toEqual([...served.keys()])
  })
})
