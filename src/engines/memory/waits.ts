import type { MemoryDatabase } from '../../adapters/memory-database.ts'
import { type Store, WAITS_FRESH_MS, WAITS_KEPT_MS } from '../../protocol/store.ts'

export function waits(database: MemoryDatabase): Pick<Store<never>, 'publishWaits'> {
  return {
    async publishWaits(own, waits) {
      const now = database.now()
      if (waits === null) database.waits.delete(own)
      else database.waits.set(own, { waits, saidAt: now })
      const others = [...database.waits].filter(
        ([process, { saidAt }]) => process !== own && saidAt > now - WAITS_FRESH_MS,
      )
      return { now, others: others.map(([process, said]) => ({ process, ...said })) }
    },
  }
}

export function purgeWaits(database: MemoryDatabase): void {
  const old = database.now() - WAITS_KEPT_MS
  for (const [process, { saidAt }] of database.waits) if (saidAt <= old) database.waits.delete(process)
}
