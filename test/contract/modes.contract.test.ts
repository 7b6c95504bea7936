import type { TestEngine } from '../engines.ts'
import { onEveryEngine } from './harness.ts'
import { modesSuite } from './modes.ts'
import { semaphoreSuite } from './semaphore.ts'

/** The others have exclusive holds alone. */
const shares = ({ engine }: TestEngine) => ['memory'].includes(engine)

onEveryEngine({ modes: modesSuite, semaphores: semaphoreSuite }, shares)
