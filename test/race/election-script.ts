import { setTimeout as sleep } from 'node:timers/promises'
import { createLocks } from '../../src/index.ts'
import { connectors } from '../adapters.ts'

/** A candidate that leads whenever it may, and writes its token into a row again and again: guarded, or not. */
const [way, connector, url, name, ttl] = process.argv.slice(2) as [
  'guarded' | 'unguarded',
  keyof typeof connectors,
  string,
  string,
  string,
]

const { adapter, transaction, sql, close } = await connectors[connector](url as never)
const locks = createLocks(adapter, { statementTimeout: '20s' })
const stop = new AbortController()
process.on('SIGTERM', () => stop.abort())

console.log('there')
await locks.election(name, { ttl: Number(ttl) }).lead({ signal: stop.signal }, async (term) => {
  // As one that has stood still does not look first.
  for (let isFirst = true; isFirst || !term.signal.aborted; isFirst = false) {
    const written = transaction(async (tx) => {
      if (way === 'guarded') await term.guard(tx)
      await sql(`insert into writes (token) values (${term.token})`, tx)
    })
    await written.catch((error: { code?: string }) => {
      if (error.code !== 'LOCK_LOST' && error.code !== 'TRANSACTION_ABORTED') throw error
    })
    await sleep(20)
  }
})
await locks.close()
await close()
