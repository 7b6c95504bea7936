import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { createLocks, isTransactionAborted } from '../../src/index.ts'
import { connectors } from '../adapters.ts'

/** Does what is to be done once for each key, several at a time, in an order of its own, or all in the same; whatever others do, or have done. */
const [way, connector, url, prefix, count] = process.argv.slice(2) as [
  'lease' | 'transaction' | 'look',
  keyof typeof connectors,
  string,
  string,
  string,
]
/** A file has one transaction at a time, and one connection here. */
const AT_ONCE = connector.includes('sqlite') ? 1 : 4
/** So that others come meanwhile. */
const WORK_MS = 10

const { adapter, transaction, sql, close } = await connectors[connector](url as never)
const locks = createLocks(adapter, { ttl: '1s', wait: '60s', statementTimeout: '20s' })

/** What is written here is counted: the work, and what each caller was told. */
const write = (table: 'done' | 'told', key: string, value: string, tx?: unknown) =>
  sql(`insert into ${table} (entry, value) values ('${key}', '${value}')`, tx)

const ways: { readonly [Way in typeof way]: (key: string) => Promise<string> } = {
  async lease(key) {
    const value = randomUUID()
    return (await locks.once(key, {}, async () => sleep(WORK_MS, value))).value
  },

  async transaction(key) {
    const value = randomUUID()
    const done = await transaction(async (tx) =>
      locks.within(tx).once(key, {}, async () => {
        await sleep(WORK_MS)
        await write('done', key, value, tx)
        return value
      }),
    )
    return done.value
  },

  /** As if looking were enough. */
  async look(key) {
    const value = randomUUID()
    return transaction(async (tx) => {
      const [before] = await sql(`select value from done where entry = '${key}'`, tx)
      if (before !== undefined) return String(before.value)
      await sleep(WORK_MS)
      await write('done', key, value, tx)
      return value
    })
  },
}

const keys = Array.from({ length: Number(count) }, (_, index) => `${prefix}:${index}`)
  .map((key) => [way === 'look' ? 0 : Math.random(), key] as const)
  .sort(([one], [other]) => one - other)
  .map(([, key]) => key)

async function worker(): Promise<void> {
  for (let key = keys.pop(); key !== undefined; key = keys.pop()) {
    const value = await untilDone(key)
    await retried(() => write('told', key!, value))
  }
}

const untilDone = (key: string) => retried(() => ways[way](key))

/** As an application would: a transaction that was aborted is run again. */
async function retried<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call()
    } catch (error) {
      if (!isTransactionAborted(error)) throw error
    }
  }
}

// All begin at once.
const begun = once(process, 'SIGUSR2')
const running = setInterval(() => undefined, 1000)
console.log('there')
await begun
clearInterval(running)
await Promise.all(Array.from({ length: AT_ONCE }, worker))
await locks.close()
await close()
