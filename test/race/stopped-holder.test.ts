import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import type { Locks } from '../../src/index.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { sharedEngines } from './one-per-engine.ts'
import { endProcesses, startWorker, type Worker } from './processes.ts'

afterAll(endProcesses)

// Engines at the same time, because these tests wait more than they work; the tests of each one after the other.
describe.each(sharedEngines)('on $name', { concurrent: true, timeout: 90_000 }, (engine) => {
  let open: OpenEngine
  let others: Locks<unknown>
  let workers: readonly [Worker, Worker, Worker]

  beforeAll(async () => {
    open = await engine.open()
    await open.connected.sql('create table counter (value int not null)')
    await open.connected.sql('insert into counter values (0)')
    others = await open.locks()
    const start = () => startWorker(engine, open.url)
    workers = [await start(), await start(), await start()]
  })

  afterAll(() => open.close())

  const counter = async () => Number((await open.connected.sql('select value from counter'))[0]?.value)

  it.sequential('a holder stopped past its ttl knows it lost its lease at once when it continues, and cannot commit', async () => {
    const [holder] = workers
    const name = freshName()
    const options = { ttl: '1500ms' } as const
    const seen = await holder.call('acquire', freshName(), options)
    const held = await holder.call('acquire', name, options)
    await holder.call('watchForPause', seen.id, held.id)
    await holder.pause()
    const next = await others.acquire(name, { wait: '20s' })
    expect(next.token).toBeGreaterThan(held.token)
    holder.resume()

    const firstTick = await holder.call('firstTick')
    expect(firstTick).toEqual({ aborted: true, isHeld: false, earlierSignalAborted: true })
    const late = holder.call('write', 'update counter set value = -1', held.id)
    await expect(late).rejects.toMatchObject({ name: 'LockLostError', code: 'LOCK_LOST' })
    expect(await counter()).toBe(0)
    expect(await holder.call('release', held.id)).toBe(false)
    expect(next.isHeld()).toBe(true)
  })

  it.sequential('no increment is lost while holders are stopped between read and write, if they guard their writes', async () => {
    const { acknowledged, refused } = await incrementWithStops(true)
    expect(refused).toBe(2)
    expect(await counter()).toBe(acknowledged)
  })

  it.sequential('without the guard the same schedule loses increments', async () => {
    const { acknowledged, refused } = await incrementWithStops(false)
    expect(refused).toBe(0)
    expect(await counter()).toBeLessThan(acknowledged)
  })

  it.sequential('a holder whose clock stood still trusts its lease too long, but cannot commit', async () => {
    const [holder] = workers
    const name = freshName()
    const { id } = await holder.call('acquire', name, { ttl: '1s', renew: false })
    await holder.call('stopClock')
    const next = await others.acquire(name, { wait: '20s' })

    expect(await holder.call('isHeld', id)).toBe(true)
    const late = holder.call('write', 'update counter set value = -1', id)
    await expect(late).rejects.toMatchObject({ code: 'LOCK_LOST' })
    expect(await counter()).not.toBe(-1)
    expect(next.isHeld()).toBe(true)
  })

  /** Two workers that stop themselves in the middle of a turn, one after the other, and one that never does. */
  async function incrementWithStops(guarded: boolean) {
    await open.connected.sql('update counter set value = 0')
    const name = freshName()
    const [first, second, tireless] = workers
    const restless = tireless.call('increment', name, { guarded, times: Number.MAX_SAFE_INTEGER })
    const results = []
    for (const each of [first, second]) {
      const increments = each.call('increment', name, { guarded, times: 3, stopAt: 1 })
      await each.untilPaused()
      const before = await counter()
      await vi.waitUntil(async () => (await counter()) > before, { timeout: 60_000 })
      each.resume()
      results.push(await increments)
    }
    await tireless.call('finish')
    results.push(await restless)
    return {
      acknowledged: results.reduce((sum, result) => sum + result.acknowledged, 0),
      refused: results.reduce((sum, result) => sum + result.refused, 0),
    }
  }
})
