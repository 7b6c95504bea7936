import { onEveryEngine } from './harness.ts'
import { namesSuite } from './names.ts'

onEveryEngine({ names: namesSuite })
