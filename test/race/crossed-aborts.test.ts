import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, it } from 'vitest'
import { type LockEvent, type Locks, LockTimeoutError } from '../../src/index.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { enginesOnce } from './one-per-engine.ts'

const CROSSINGS = 2000
/** On names of their own, so that they share statements, but no rows. */
const AT_ONCE = 8
const CALLERS = 8
/** Callers leave so soon after they came. Where the looks of those who wait find hand-offs, these take longer. */
const LEAVE_WITHIN_MS = { postgres: 6, mysql: 30, sqlite: 6, memory: 6 }

let open: OpenEngine
afterEach(() => open.close())

// PGlite has the statements of PostgreSQL and one connection, on which nothing crosses in the database: what crosses in the process
// does so in memory, too. It would take half of the time of all of them.
const crossing = enginesOnce.filter(({ connector }) => connector !== 'pglite')

describe.each(crossing)('on $name', { timeout: 300_000 }, (engine) => {
  it(`${CROSSINGS} times, callers who leave while the lock is handed over leave it to others at once`, async () => {
    open = await engine.open()
    const instances = engine.shared ? [await open.locks(), await open.locks()] : [await open.locks()]
    const fresh = engine.shared ? await open.locks() : instances[0]!
    const errors: LockEvent[] = []
    const takeovers: LockEvent[] = []
    for (const locks of [...instances, fresh]) {
      locks.on((event) => event.type === 'error' && errors.push(event))
      locks.on((event) => event.type === 'takeover' && takeovers.push(event))
    }
    const withinMs = LEAVE_WITHIN_MS[engine.engine]
    const took: number[] = []
    const ends = { served: 0, left: 0 }
    let crossings = 0
    const crossAll = async () => {
      while (crossings++ < CROSSINGS) {
        const name = freshName()
        const held = await fresh.acquire(name)
        const callers = Array.from({ length: CALLERS }, (_, index) =>
          comeAndLeave(instances[index % instances.length]!, name, withinMs, ends),
        )
        await sleep(Math.random() * withinMs)
        await Promise.all([held.release(), ...callers])
        took.push(await untilTaken(fresh, name))
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, crossAll))

    took.sort((a, b) => a - b)
    const at = (part: number) => Math.round(took[Math.floor((took.length - 1) * part)]!)
    console.info(
      `${engine.name}: the lock could be taken after ms p50 ${at(0.5)} p90 ${at(0.9)} p99 ${at(0.99)} p999 ${at(0.999)} most ${at(1)}`,
      ends,
    )
    expect(errors).toEqual([])
    expect(ends.left).toBeGreaterThan(CROSSINGS)
    // What nobody passes on is taken from nobody when it has not been claimed in time, as from a process that stands still.
    expect(takeovers.length).toBeLessThanOrEqual(CROSSINGS / 1000)
  })
})

/** Whoever is served releases at once, which hands over to somebody who may be leaving. */
async function comeAndLeave(
  locks: Locks<unknown>,
  name: string,
  withinMs: number,
  ends: { served: number; left: number },
): Promise<void> {
  const controller = new AbortController()
  const within = Math.random() * withinMs
  const aborts = Math.random() < 0.7
  const timer = aborts ? setTimeout(() => controller.abort(LEFT), within) : undefined
  try {
    const lease = await locks.acquire(name, { wait: aborts ? '20s' : Math.ceil(within), signal: controller.signal })
    ends.served++
    if (Math.random() < 0.3) await sleep(1)
    await lease.release()
  } catch (error) {
    if (error !== LEFT && !(error instanceof LockTimeoutError)) throw error
    ends.left++
  } finally {
    clearTimeout(timer)
  }
}

const LEFT = new Error('left')

async function untilTaken(locks: Locks<unknown>, name: string): Promise<number> {
  const since = performance.now()
  for (;;) {
    const lease = await locks.tryAcquire(name)
    if (lease !== null) {
      const took = performance.now() - since
      await lease.release()
      return took
    }
    await sleep(1)
  }
}
