import { asAdapter, type MemoryAdapter } from './adapter.ts'
import { MemoryDatabase } from './memory-database.ts'

export { MemoryDatabase, type MemoryTransaction } from './memory-database.ts'

/** Locks in memory, for unit tests. Adapters on one MemoryDatabase share their locks; each makes its own by default. */
export function fromMemory(database: MemoryDatabase = new MemoryDatabase()): MemoryAdapter {
  return asAdapter({ engine: 'memory', database })
}
