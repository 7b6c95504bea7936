import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { DeadlockError } from '../../src/index.ts'
import { Deadlocks } from '../../src/process/deadlocks.ts'
import type { Seen } from '../../src/protocol/circles.ts'
import type { PublishedWaits } from '../../src/protocol/store.ts'

/** A database in which processes publish their waits, and of which locks each is held under one token. */
class Board {
  readonly said = new Map<string, { waits: string; saidAt: number }>()
  readonly held = new Map<string, bigint>()
  statements = 0
  /** Of these processes, what they say next gets there, and is said again and again, but they hear of nothing any more. */
  readonly stuck = new Set<string>()

  publish(process: string, waits: string | null): Promise<PublishedWaits> {
    this.statements++
    const now = 1_000_000 + performance.now()
    if (waits === null) this.said.delete(process)
    else if (!this.stuck.has(process)) this.said.set(process, { waits, saidAt: now })
    const others = [...this.said]
      .filter(([other]) => other !== process)
      .map(([other, { waits, saidAt }]) => ({ process: other, waits, saidAt: this.stuck.has(other) ? now : saidAt }))
    return Promise.resolve({ now, others })
  }

  async look(name: string): Promise<Seen> {
    this.statements++
    const token = this.held.get(name)
    if (token === undefined) return { state: null, token: 0n }
    const holder = { owner: 'o', token, holder: 'h', expiresInMs: 1000, weight: 1 }
    return { state: { ...holder, name, waiters: 1, mode: 'exclusive', holders: [holder], queue: [] }, token }
  }
}

describe('waits of callers that hold something', () => {
  let board: Board
  let failures: unknown[]
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    board = new Board()
    failures = []
  })
  afterEach(() => {
    vi.useRealTimers()
    expect(failures).toEqual([])
  })

  function startProcess(process: string) {
    return new Deadlocks({
      holder: process,
      publish: (waits) => board.publish(process, waits),
      look: (name) => board.look(name),
      background: (_, work) => {
        work.catch((error: unknown) => failures.push(error))
      },
    })
  }

  /** A wait for `name` of who has these. */
  function wait(process: Deadlocks, name: string, has: readonly string[]) {
    const refused: DeadlockError[] = []
    const stop = process.watch({
      name,
      weight: null,
      claims: () => has.map((each) => ({ name: each, token: `${board.held.get(each)}` })),
      reject: (error) => refused.push(error),
    })
    return { stop, refused }
  }

  it('cost nothing if they are over within 300 ms, or if nothing is held', async () => {
    const process = startProcess('one')
    for (let i = 0; i < 20; i++) {
      board.held.set('a', 1n)
      const { stop } = wait(process, 'b', ['a'])
      await vi.advanceTimersByTimeAsync(290)
      stop()
    }
    const { stop } = wait(process, 'b', [])
    await vi.advanceTimersByTimeAsync(60_000)
    stop()
    await vi.advanceTimersByTimeAsync(60_000)
    expect(board.statements).toBe(0)
  })

  it('are told of once in a while, and not any more when they are over', async () => {
    const process = startProcess('one')
    board.held.set('a', 1n)
    const waits = Array.from({ length: 50 }, (_, index) => wait(process, `b${index}`, ['a']))
    await vi.advanceTimersByTimeAsync(10_000)
    expect(board.statements).toBeGreaterThan(50)
    expect(board.statements).toBeLessThan(100)
    for (const { stop } of waits) stop()
    await vi.advanceTimersByTimeAsync(1000)
    expect(board.said.size).toBe(0)
    const { statements } = board
    await vi.advanceTimersByTimeAsync(60_000)
    expect(board.statements).toBe(statements)
  })

  it('that are a circle are found within a second, and the youngest is refused', async () => {
    board.held.set('a', 1n).set('b', 2n)
    const older = wait(startProcess('one'), 'b', ['a'])
    await vi.advanceTimersByTimeAsync(20)
    const younger = wait(startProcess('two'), 'a', ['b'])
    await vi.advanceTimersByTimeAsync(980)
    expect(older.refused).toEqual([])
    expect(younger.refused).toMatchObject([{ code: 'DEADLOCK', circle: ['two: b -> a', 'one: a -> b'] }])
    await vi.advanceTimersByTimeAsync(10_000)
    expect([older.refused.length, younger.refused.length]).toEqual([0, 1])
  })

  it('are no circle if a process does not know that its wait is over', async () => {
    board.held.set('a', 1n).set('b', 2n)
    wait(startProcess('one'), 'b', ['a'])
    await vi.advanceTimersByTimeAsync(350)
    // Its last words come again and again, as late statements would, and it holds what it said for a long time.
    board.stuck.add('one')
    const other = wait(startProcess('two'), 'a', ['b'])
    await vi.advanceTimersByTimeAsync(10_000)
    expect(other.refused).toEqual([])
  })

  it('are no circle if what was held has changed hands', async () => {
    board.held.set('a', 1n).set('b', 2n)
    const process = startProcess('one')
    const refused: unknown[] = []
    process.watch({
      name: 'b',
      weight: null,
      claims: () => [{ name: 'a', token: '1' }],
      reject: (error) => refused.push(error),
    })
    const other = wait(startProcess('two'), 'a', ['b'])
    board.held.set('a', 3n)
    await vi.advanceTimersByTimeAsync(10_000)
    expect([...refused, ...other.refused]).toEqual([])
  })
})
