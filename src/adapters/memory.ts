import { MemoryDatabase } from '../store/memory.ts'
import { asAdapter, type MemoryAdapter } from './adapter.ts'

export { MemoryDatabase, type MemoryTransaction } from '../store/memory.ts'

/** Locks in memory, for unit tests. Adapters on one MemoryDatabase share their locks; each makes its own by default. */
export function fromMemory(database: MemoryDatabase = new MemoryDatabase()): MemoryAdapter {
  return asAdapter({ engine: 'memory', database })
}
