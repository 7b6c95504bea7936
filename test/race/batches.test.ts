import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import type { Lease, LockEvent, Locks } from '../../src/index.ts'
import type { OpenEngine } from '../engines.ts'
import { deadlocksIn } from './deadlocks.ts'
import { servedEngines } from './one-per-engine.ts'

const LEASES = 200

describe.each(servedEngines)('on $name', { concurrent: true, timeout: 60_000 }, (engine) => {
  let open: OpenEngine

  beforeAll(async () => {
    open = await engine.open()
  })

  afterAll(() => open.close())

  it('two instances renew hundreds of interleaved leases while others come and go, without a deadlock or a loss', async () => {
    const instances = await Promise.all([open.locks({ ttl: '6s' }), open.locks({ ttl: '6s' })])
    const events: LockEvent[] = []
    for (const locks of instances) locks.on((event) => events.push(event))
    const renewals = () => events.filter(({ type }) => type === 'renewed').length

    // Even names for one, odd ones for the other, each taken in an order of its own.
    const take = async (locks: Locks<unknown>, parity: number) => {
      const leases: Lease<unknown>[] = []
      for (const index of shuffled(LEASES)) leases.push(await locks.acquire(nameOf(2 * index + parity)))
      return leases
    }
    const kept = (await Promise.all(instances.map(take))).flat()

    let isOver = false
    const comeAndGo = instances.flatMap((locks) =>
      Array.from({ length: 10 }, async () => {
        while (!isOver) {
          const name = nameOf(Math.floor(Math.random() * 2 * LEASES))
          // Somebody's, always; and a neighbour of it that is nobody's yet.
          expect(await locks.tryAcquire(name)).toBe(null)
          const neighbour = await locks.tryAcquire(`${name}:${Math.floor(Math.random() * 5)}`)
          await sleep(Math.random() * 20)
          await neighbour?.release()
        }
      }),
    )
    const purging = (async () => {
      while (!isOver) {
        await instances[0]?.purge({ idleFor: 0 })
        await sleep(50)
      }
    })()
    await vi.waitUntil(() => renewals() >= 4 * LEASES, { timeout: 30_000 })
    isOver = true
    await Promise.all([...comeAndGo, purging])

    const troubles = events.filter(({ type }) => ['lost', 'unknown', 'error', 'takeover'].includes(type))
    expect(troubles).toEqual([])
    expect(await deadlocksIn(open)).toBe(0)
    expect(await Promise.all(kept.map((lease) => lease.release()))).not.toContain(false)
  })
})

function nameOf(index: number): string {
  return `kept:${String(index).padStart(4, '0')}`
}

function shuffled(count: number): number[] {
  return Array.from({ length: count }, (_, index) => ({ index, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ index }) => index)
}
