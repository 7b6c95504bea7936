import { rename, rm } from 'node:fs/promises'
import { expect, it, vi } from 'vitest'
import { createLocks } from '../../src/index.ts'
import { connectors } from '../adapters.ts'
import { engines, freshName } from '../engines.ts'

const onFile = engines().filter(({ engine }) => engine === 'sqlite')

it.each(onFile)('a file that is replaced or deleted is refused, and its leases are lost, on $name', async (engine) => {
  for (const change of ['replaced', 'deleted']) {
    const open = await engine.open()
    const locks = createLocks(open.connected.adapter, { ttl: '2s' })
    const name = freshName()
    const lease = await locks.acquire(name)
    if (change === 'replaced') {
      const other = `${open.url}.other`
      const connected = await connectors['better-sqlite3'](other)
      await using others = createLocks(connected.adapter)
      await others.migrate()
      await connected.close()
      await rename(other, open.url)
    } else {
      await rm(open.url)
    }
    await expect(locks.acquire(freshName())).rejects.toMatchObject({
      code: 'DATABASE',
      message: expect.stringContaining(change),
    })
    await expect(open.connected.transaction(async (tx) => lease.guard(tx))).rejects.toMatchObject({ code: 'LOCK_LOST' })
    await vi.waitUntil(() => lease.signal.aborted, { timeout: 10_000 })
    await locks.close()
    await open.close()
  }
})
