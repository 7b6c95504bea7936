import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { SqlAdapter } from '../../src/adapters/adapter.ts'
import { createLocks } from '../../src/index.ts'
import { freshName, type OpenEngine } from '../engines.ts'
import { enginesOnce } from './one-per-engine.ts'
import { stopping } from './stopping.ts'

/** What waits for a statement that is under way goes on without it by then. */
const LONG_ENOUGH_MS = 100

describe.each(enginesOnce.filter(({ connector }) => connector !== 'memory'))('on $name', (engine) => {
  let open: OpenEngine

  beforeAll(async () => {
    open = await engine.open()
  })

  afterAll(() => open.close())

  it('a look whose answer is late does not pass on the lease that is being released', async () => {
    const { adapter } = await open.connect()
    const stops = stopping(adapter as SqlAdapter<unknown>)
    await using locks = createLocks(stops.adapter, { ttl: '10m', wait: '1m', statementTimeout: '30s' })
    const [name, other] = [freshName(), freshName()]
    const first = await locks.acquire(name)
    const neighbour = await locks.acquire(other)
    const acquiring = locks.acquire(name)
    await expect.poll(async () => (await locks.inspect(name))?.waiters).toBe(1)

    const look = await stops.next()
    // Together: then every engine tells in its answer whom the lock went to.
    await Promise.all([first.release(), neighbour.release()])
    const lease = await acquiring
    const seen = await look.send()
    const sending = stops.next()
    const releasing = lease.release()
    const release = await sending
    look.answer(seen)
    await new Promise((resolve) => setTimeout(resolve, LONG_ENOUGH_MS))
    release.answer(await release.send())
    expect(await releasing).toBe(true)
  })
})
