import { afterAll, beforeAll } from 'vitest'
import { createLocks, type InstanceOptions, type Locks } from '../../src/index.ts'
import type { Connected, Isolation } from '../adapters.ts'
import type { OpenEngine, TestEngine } from '../engines.ts'

/** An adapter is as good at one level as at another; the engines are tried at each by their own drivers. */
export function levelsOf({ isolations, connector }: TestEngine): (Isolation | undefined)[] {
  return isolations.length > 0 && !connector.startsWith('kysely') ? [...isolations] : [undefined]
}

/** While a transaction is open, nothing else can be asked where there is one connection or one writer. */
export function asksBesideTransactions({ shared, engine }: TestEngine): boolean {
  return shared ? engine !== 'sqlite' : engine === 'memory'
}

export interface Both {
  open: OpenEngine
  locks: Locks<unknown>
  /** A second process, or the same connection where the engine has just one. */
  other: { connected: Connected; locks: Locks<unknown> }
}

/** Opens the engine before the tests of a suite, for two processes, and closes it after them. */
export function openBoth(engine: TestEngine, options: InstanceOptions, use: (both: Both) => unknown): void {
  let both: Both | undefined
  beforeAll(async () => {
    const open = await engine.open()
    const locks = createLocks(open.connected.adapter, options)
    const connected = await open.connect()
    both = { open, locks, other: { connected, locks: createLocks(connected.adapter, options) } }
    await use(both)
  })
  afterAll(async () => {
    await both?.locks.close()
    await both?.other.locks.close()
    await both?.open.close()
  })
}
