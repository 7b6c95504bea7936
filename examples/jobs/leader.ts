/**
 * A leader copies rows one after the other, and leaves behind how far it came: whoever leads next goes on there, also if it was
 * killed. Copies what there is, and ends.
 *
 *     node --import tsx examples/jobs/leader.ts [postgres://... | file.sqlite]
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { db, end, locks } from './database.ts'

const ROWS = 30

const copying = new AbortController()
await locks.election('copier', { ttl: '1s' }).lead({ signal: copying.signal }, async (term) => {
  console.log('leads with token', term.token)
  await locks.run('copier: progress', {}, async (lease) => {
    const { next } = (lease.payload ?? { next: 1 }) as { next: number }
    for (let row = next; row <= ROWS && !term.signal.aborted; row++) {
      await db.transaction().execute(async (tx) => {
        await term.guard(tx)
        await tx.insertInto('copied').values({ row, leader: process.pid }).execute()
        await lease.checkpoint({ next: row + 1 }, tx)
      })
      await sleep(20)
    }
  })
  copying.abort()
})
await end()
