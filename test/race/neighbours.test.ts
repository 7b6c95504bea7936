import { describe, expect, it, vi } from 'vitest'
import { createLocks } from '../../src/index.ts'
import { servedEngines } from './one-per-engine.ts'

// How a server finds rows, and which of them it locks on the way, depends on how many there are.
describe.each(servedEngines)('on $name', { concurrent: true, timeout: 60_000 }, (engine) => {
  it.each([1, 2, 5, 50])(
    'a guarded transaction keeps none of %i other locks of its small table from being renewed, released, forced or purged',
    async (count) => {
      const open = await engine.open()
      const elsewhere = await open.connect()
      const holders = createLocks(open.connected.adapter, { wait: '2s' })
      const others = createLocks(elsewhere.adapter, { wait: '2s' })
      const renewed = new Set<string>()
      others.on((event) => event.type === 'renewed' && renewed.add(event.name))

      // In the middle of the others.
      const guarded = await holders.acquire('m')
      const names = Array.from({ length: count }, (_, index) => `${index % 2 === 0 ? 'a' : 'z'}:${index}`)
      const leases = await Promise.all(names.map((name) => others.acquire(name, { ttl: '5s' })))
      await open.connected.transaction(async (tx) => {
        await guarded.guard(tx)
        await vi.waitUntil(() => renewed.size === count, { timeout: 10_000 })
        expect(await others.forceRelease(names[0]!)).toBe(true)
        const answers = await Promise.all(leases.map((lease) => lease.release()))
        expect(answers).toEqual(names.map((_, index) => index > 0))
        expect(await others.purge({ idleFor: 0 })).toBe(count)
        for (const name of names) expect(await (await others.acquire(name)).release()).toBe(true)
      })
      expect(await guarded.release()).toBe(true)
      await Promise.all([holders.close(), others.close()])
      await open.close()
    },
  )
})
