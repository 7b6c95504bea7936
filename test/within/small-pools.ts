import { describe, expect, it } from 'vitest'
import { createLocks } from '../../src/index.ts'
import { freshName, type TestEngine } from '../engines.ts'
import { addUp, counted, createCounters, startCounter } from './add-up.ts'

/** Transactions that wait for a lock need no connection but their own. */
export function smallPoolsSuite(engine: Pick<TestEngine, 'name' | 'open'>): void {
  describe(`64 transactions that want one lock with ${engine.name}`, { timeout: 60_000 }, () => {
    it.each([4, 1])('all commit over a pool of %i', async (poolSize) => {
      const open = await engine.open()
      const connected = await open.connect({ poolSize })
      const locks = createLocks(connected.adapter, { wait: '5m' })
      const name = freshName()
      await createCounters(connected)
      await startCounter(connected, name)
      const sum = await addUp({ connected, locks }, { transactions: 64, names: [[name]], isolation: 'read committed' })
      expect(sum).toEqual({ aborted: 0, failed: [] })
      expect(await counted(connected, name)).toBe(64)
      await locks.close()
      await open.close()
    })
  })
}
