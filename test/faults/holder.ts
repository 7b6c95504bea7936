import { createLocks } from '../../src/index.ts'
import { connectWork, type Dialect } from './work.ts'

/** A process that holds locks and renews them until it is killed. Run by takeovers.ts. */
export interface HolderSettings {
  readonly dialect: Dialect
  readonly url: string
  readonly locks: readonly string[]
  readonly ttlMs: number
}

const { dialect, url, locks: names, ttlMs } = JSON.parse(process.argv[2] ?? '') as HolderSettings
const locks = createLocks((await connectWork(dialect, url)).adapter, { ttl: ttlMs, wait: '1m' })
await Promise.all(names.map((name) => locks.acquire(name)))
process.on('disconnect', () => process.exit(1))
process.send?.('held')
