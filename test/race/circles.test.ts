import { afterEach, describe, expect, it } from 'vitest'
import { freshName, type OpenEngine } from '../engines.ts'
import { sharedEngines } from './one-per-engine.ts'
import { endProcesses, startWorker } from './processes.ts'

const PROCESSES = 3
const CALLERS_EACH = 4
/** Holds of up to so long make many wait for longer than they need to be looked at. */
const HOLD_MS = 150
/** Of each process. ROWLOCK_ACQUISITIONS asks for more of them. */
const ACQUISITIONS = Number(process.env.ROWLOCK_ACQUISITIONS ?? 40)

let open: OpenEngine
afterEach(async () => {
  await endProcesses()
  await open.close()
})

describe.each(sharedEngines)('processes that take locks one within the other on $name', (engine) => {
  async function take(inOrder: boolean) {
    open = await engine.open()
    const prefix = freshName()
    const names = Array.from({ length: 6 }, (_, index) => `${prefix}:${index}`)
    // A connection to a file has one transaction at a time, and in that, no lease that one waits for can be released.
    const transactions = engine.engine !== 'sqlite'
    const plan = { acquisitions: ACQUISITIONS, callers: CALLERS_EACH, inOrder, transactions, holdMs: HOLD_MS }
    const workers = await Promise.all(Array.from({ length: PROCESSES }, () => startWorker(engine, open.url)))
    const reports = await Promise.all(workers.map((worker) => worker.call('takeNested', names, plan)))
    for (const { acquired } of reports) expect(acquired).toBeGreaterThanOrEqual(ACQUISITIONS)
    const locks = await open.locks()
    for (const name of names) expect(await locks.tryAcquire(name, {}).catch(() => 'a semaphore')).not.toBeNull()
    return {
      circles: reports.flatMap(({ circles }) => circles),
      timedOut: reports.flatMap(({ timedOut }) => timedOut),
    }
  }

  it('in one order are never told of a deadlock', { timeout: 900_000 }, async () => {
    expect(await take(true)).toEqual({ circles: [], timedOut: [] })
  })

  it('in any order come on, since circles are found', { timeout: 900_000 }, async () => {
    const { circles, timedOut } = await take(false)
    expect(timedOut).toEqual([])
    expect(circles.length).toBeGreaterThan(0)
  })
})
