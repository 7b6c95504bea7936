import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createLocks, isTransactionAborted, type Locks } from '../../src/index.ts'
import type { Connected } from '../adapters.ts'
import { eventually } from '../contract/harness.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { servedEngines } from '../race/one-per-engine.ts'

/**
 * How many holds of the one kind may come before one of the other, which waits. Some twenty do where the machine is at rest; on
 * one that is busy a hand-off may run out, a second in which thousands pass. Who starves is never served.
 */
const BOUND = 10_000
/** As many as want the lock at any time, so that there is never a gap. */
const STREAM = 10
const ROUNDS = 5
const LONG = { ttl: '20s', wait: '50s' } as const

describe.each(servedEngines)('leases and transactions that want one lock on $name', { timeout: 60_000 }, (engine) => {
  let open: OpenEngine
  let processes: { connected: Connected; locks: Locks<unknown> }[]
  let name: string
  let streams: Promise<void>[]
  let isOver: boolean
  let holds: ('lease' | 'transaction')[]

  beforeEach(async () => {
    open = await engine.open()
    processes = []
    for (let index = 0; index < 2; index++) {
      const connected = await open.connect({ poolSize: STREAM })
      processes.push({ connected, locks: createLocks(connected.adapter, LONG) })
    }
    name = freshName()
    streams = []
    holds = []
    isOver = false
  })
  afterEach(async () => {
    isOver = true
    await Promise.allSettled(streams)
    for (const { locks } of processes) await locks.close()
    await open.close()
  })

  const lease = async ({ locks }: (typeof processes)[0]) =>
    locks.run(name, {}, () => {
      holds.push('lease')
    })
  const transaction = async ({ connected, locks }: (typeof processes)[0]) =>
    unlessAborted(() =>
      connected.transaction(async (tx) => {
        await locks.within(tx).acquire(name)
        holds.push('transaction')
      }),
    )

  /** On InnoDB a lease may come in the moment between two statements, and then the transaction is retried. */
  async function unlessAborted(transaction: () => Promise<void>): Promise<void> {
    for (;;) {
      try {
        return await transaction()
      } catch (error) {
        if (engine.engine !== 'mysql' || !isTransactionAborted(error)) throw error
      }
    }
  }

  function stream(count: number, once: typeof lease): void {
    for (let index = 0; index < count; index++) {
      const repeated = async () => {
        while (!isOver) await once(processes[index % processes.length]!)
      }
      streams.push(repeated())
    }
    // A stream that ends with an error is seen by whoever waits for it at the end.
    for (const each of streams) each.catch(() => undefined)
  }

  /** How many others had the lock while one waited, at most. */
  async function longestWait(one: typeof lease, kind: 'lease' | 'transaction'): Promise<number> {
    let longest = 0
    for (let round = 0; round < ROUNDS; round++) {
      const before = holds.length
      await one(processes[round % processes.length]!)
      longest = Math.max(longest, holds.indexOf(kind, before) - before)
    }
    return longest
  }

  async function end(): Promise<void> {
    isOver = true
    await Promise.all(streams)
  }

  it('a stream of transactions does not starve a lease', async () => {
    stream(STREAM, transaction)
    await eventually(() => expect(holds.length).toBeGreaterThan(STREAM))
    expect(await longestWait(lease, 'lease')).toBeLessThan(BOUND)
    await end()
  })

  it('a stream of leases does not starve a transaction', async () => {
    stream(STREAM, lease)
    await eventually(() => expect(holds.length).toBeGreaterThan(STREAM))
    expect(await longestWait(transaction, 'transaction')).toBeLessThan(BOUND)
    await end()
  })

  it('a stream of each kind starves neither', async () => {
    stream(STREAM, transaction)
    stream(STREAM, lease)
    await eventually(() => {
      for (const kind of ['lease', 'transaction'] as const) {
        expect(holds.filter((hold) => hold === kind).length).toBeGreaterThan(5 * STREAM)
      }
    })
    await end()
    expect(longestRun(holds)).toBeLessThan(BOUND)
  })
})

/** The most that one kind had the lock in a row. */
function longestRun(holds: readonly string[]): number {
  let longest = 0
  let run = 0
  for (const [index, hold] of holds.entries()) {
    run = hold === holds[index - 1] ? run + 1 : 1
    longest = Math.max(longest, run)
  }
  return longest
}
